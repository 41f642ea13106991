"""From an ended span to where spans are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.core.tracing import Span, Tracer
from services.runtime.telemetry.config import TracingConfig


class _Nowhere:
    def record(self, span: Span) -> None:
        """Forgets it."""


@contextmanager
def tracing(config: TracingConfig, home: Path, process: str) -> Iterator[Tracer | None]:
    """What the services of this process trace with, None where nothing is traced. `process` names it in files.

    On leaving, what has not been sent yet is, as far as two seconds suffice.
    """
    yield Tracer(_Nowhere(), config.sampling(), content=config.content) if config.on else None
