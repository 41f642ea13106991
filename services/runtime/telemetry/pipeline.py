"""From an ended span to where spans are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from services.core.tracing import Span, SpanSink, Tracer
from services.runtime.telemetry.batcher import Batcher
from services.runtime.telemetry.config import TracingConfig
from services.runtime.telemetry.files import TraceFiles

FLUSH: Final = 2.0
"""Seconds that a process waits at its end for spans to be taken, in each of its sinks."""


class _Both:
    """Several sinks as one."""

    def __init__(self, sinks: Sequence[SpanSink]) -> None:
        self._sinks = sinks

    def record(self, span: Span) -> None:
        """See `SpanSink`."""
        for sink in self._sinks:
            sink.record(span)


@contextmanager
def tracing(config: TracingConfig, home: Path, process: str) -> Iterator[Tracer | None]:
    """What the services of this process trace with, None where nothing is traced. `process` names it in files. Raises
    ARGUMENT_INVALID for settings that cannot be.

    On leaving, what has not been sent yet is, as far as `FLUSH` suffices.
    """
    if not config.on:
        yield None
        return
    sinks = _sinks(config, home, process)
    try:
        yield Tracer(sinks[0] if len(sinks) == 1 else _Both(sinks), config.sampling(), content=config.content)
    finally:
        for sink in sinks:
            sink.close(FLUSH)


def _sinks(config: TracingConfig, home: Path, process: str) -> list[Batcher]:
    sinks = [Batcher("local", TraceFiles(home, process))] if config.local else []
    if config.endpoint:
        from services.runtime.telemetry.collector import Collector  # the SDK is a quarter of a second's work

        sinks.append(Batcher("collector", Collector(config, home)))
    return sinks
