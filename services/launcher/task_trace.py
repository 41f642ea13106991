"""One call that goes as a Globus task, in its trace: `globus task` here, and under it `run task` at its node.

The function tells when it did what, by its node's clock, which need not be ours. vLLM is told that `run task` is the
span above its own.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from services.core import weft_attributes
from services.core.errors import ServiceError
from services.core.inference import Request
from services.core.tracing import AttributeValue, Event, Kind, Span, Tracer, parent_in

_SERVER_ERRORS: Final = 500
_LONGEST_HOST: Final = 253
_MOMENTS: Final = (("sent", "request sent"), ("answered", "head"))
_YEAR_2200: Final = 7_258_118_400.0
"""Times are 64 bits of nanoseconds, and a node may say anything."""


class NodeTimes(msgspec.Struct, frozen=True):
    """When a function did what, in seconds since 1970. `sent` and `answered` are 0 if it never came to that."""

    began: float
    ended: float
    sent: float = 0.0
    answered: float = 0.0

    @property
    def credible(self) -> bool:
        """Whether one comes after the other."""
        known = [moment for moment in (self.began, self.sent, self.answered, self.ended) if moment]
        return 0 < self.began < self.ended < _YEAR_2200 and all(map(operator.le, known, known[1:]))


class NodeRun(msgspec.Struct, frozen=True):
    """What a result tells of its own making, beside the answer."""

    times: NodeTimes
    host: str = ""


def node_run(result: Any) -> NodeRun | None:
    """What a result tells of its making; None for that of an older function, or of one that tells nonsense."""
    try:
        found = msgspec.convert(result, NodeRun)
    except msgspec.ValidationError:
        return None
    return found if found.times.credible else None


class TaskTrace:
    """Takes notes of a call; makes its spans once it has ended for whoever made it, which is when the answer is there,
    or it has failed, or its caller has left. A task that was submitted goes on in any case.
    """

    def __init__(
        self,
        tracer: Tracer,
        request: Request,
        facts: Mapping[str, AttributeValue],
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`facts` are attributes. `clock` gives nanoseconds since 1970."""
        parent = parent_in(request)
        self._tracer = tracer
        self.place = tracer.follow(parent)
        self._node = self.place.child()
        self._parent = parent.span_id if parent is not None else ""
        self._facts: dict[str, AttributeValue] = dict(facts)
        self._clock = clock
        self._start = clock()
        self._events: list[Event] = []
        self._run: NodeRun | None = None
        self._over = False

    def request(self, request: Request) -> Request:
        """The call as it goes to its node."""
        return msgspec.structs.replace(request, trace=self._node)

    def happened(self, what: str) -> None:
        """Something has happened to the task."""
        if not self._over:
            self._events.append(Event(what, self._clock()))

    def submitted(self, task: str) -> None:
        """Globus Compute has the task."""
        self._facts[weft_attributes.TASK] = task
        self.happened("submitted")

    def result(self, result: Any) -> None:
        """The result has come."""
        self._run = node_run(result)
        self.happened("result read")

    def answered(self, status: int) -> None:
        """vLLM has answered, with this status."""
        self._facts[weft_attributes.HTTP_STATUS] = status
        self._end(str(status) if status >= _SERVER_ERRORS else "", "")

    def failed(self, error: ServiceError) -> None:
        """There is no answer."""
        self._end(error.reason.name.lower(), error.reason.name.lower())

    def left(self) -> None:
        """Whoever made the call has left."""
        self.happened("left")
        self._end("", "cancelled")

    def _end(self, error: str, outcome: str) -> None:
        over, self._over = self._over, True
        if over or not self._tracer.keeps(self.place, failed=bool(error)):
            return
        self._facts[weft_attributes.OUTCOME] = outcome or error or "ok"
        if error:
            self._facts[weft_attributes.ERROR_TYPE] = error
        if self._run is not None:
            self._events.append(Event("running", _ns(self._run.times.began)))
            self._tracer.record(self._run_span(self._run, error))
        self._tracer.record(
            Span(
                context=self.place,
                parent_id=self._parent,
                name="globus task",
                service="launcher",
                kind=Kind.CLIENT,
                start_ns=self._start,
                end_ns=self._clock(),
                attributes=self._facts,
                events=tuple(sorted(self._events, key=lambda event: event.time_ns)),
                error=error,
            )
        )

    def _run_span(self, run: NodeRun, error: str) -> Span:
        moments = ((name, getattr(run.times, field)) for field, name in _MOMENTS)
        return Span(
            context=self._node,
            parent_id=self.place.span_id,
            name="run task",
            service="function",
            kind=Kind.SERVER,
            start_ns=_ns(run.times.began),
            end_ns=_ns(run.times.ended),
            attributes=self._facts,
            events=tuple(Event(name, _ns(at)) for name, at in moments if at),
            error=error,
            resource={weft_attributes.HOST: run.host[:_LONGEST_HOST]} if run.host else {},
        )


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
