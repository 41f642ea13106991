"""How this worker began, as a span of the start that it comes from: from its process's first moment until its vLLM
answers. Whoever starts a worker in the course of a trace says so by the environment variable `TRACEPARENT`
(https://opentelemetry.io/docs/specs/otel/context/env-carriers/).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from services.core.errors import ServiceError
from services.core.tracing import AttributeValue, Event, Span, Tracer, parse
from services.core.weft_attributes import ERROR_TYPE, HOST, JOB, OUTCOME
from services.worker.ending import WorkerFailedError

_STAT: Final = Path("/proc/self/stat")
_BEGUN: Final = 19
"""The place of the process's start in `stat`, counted behind the program's name (proc(5))."""


class StartSpan:
    """Takes notes until the worker takes calls for the first time, or ends before; what comes later is no part of it.
    Without a `TRACEPARENT` there is no span.
    """

    def __init__(
        self,
        tracer: Tracer,
        environ: Mapping[str, str],
        *,
        job: str = "",
        begun: int | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`job` is the scheduler's. `begun` and `clock` are in nanoseconds since 1970."""
        self._tracer = tracer
        self._parent = parse(environ.get("TRACEPARENT"))
        self._job = job
        self._begun = begun if begun is not None else process_begun()
        self._clock = clock
        self._events: list[Event] = []
        self._over = self._parent is None

    def attached(self) -> None:
        """A router has taken the worker in."""
        if not self._over and not self._events:
            self._events.append(Event("attached", self._clock()))

    def ready(self) -> None:
        """vLLM answers, and routers hear of it."""
        if not self._over:
            self._events.append(Event("vllm ready", self._clock()))
            self._end("ready", "")

    def over(self, failure: Exception | None) -> None:
        """The worker ends; by a failure, or because it was told to."""
        if not self._over:
            error = "" if failure is None else _name(failure)
            self._end(error or "stopped", error)

    def _end(self, outcome: str, error: str) -> None:
        self._over = True
        if self._parent is None:
            return
        context = self._parent.child()
        if not self._tracer.keeps(context, failed=bool(error)):
            return
        attributes: dict[str, AttributeValue] = {OUTCOME: outcome, HOST: socket.gethostname()}
        if self._job:
            attributes[JOB] = self._job
        if error:
            attributes[ERROR_TYPE] = error
        self._tracer.record(
            Span(
                context=context,
                parent_id=self._parent.span_id,
                name="start worker",
                service="worker",
                start_ns=self._begun,
                end_ns=self._clock(),
                attributes=attributes,
                events=tuple(self._events),
                error=error,
            )
        )


def process_begun() -> int:
    """When this process began, in nanoseconds since 1970; now, where the system does not tell it."""
    now = time.time_ns()
    try:
        ticks = int(_STAT.read_text().rpartition(")")[2].split()[_BEGUN])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return now
    return now - max(0, round(age * 1e9))


def _name(failure: Exception) -> str:
    if isinstance(failure, WorkerFailedError):
        return failure.exit_status.name.lower()
    return failure.reason.name.lower() if isinstance(failure, ServiceError) else "internal"
