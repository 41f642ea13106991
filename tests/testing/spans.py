"""Spans that a test looks at as they were made, without a pipeline."""

from __future__ import annotations

from services.core.tracing import Sampling, Span, Tracer


class Spans:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.all: list[Span] = []

    def record(self, span: Span) -> None:
        """See `SpanSink.record`."""
        self.all.append(span)

    def tracer(self, *, content: bool = False, **sampling: float | bool) -> Tracer:
        """A tracer that records here."""
        return Tracer(self, Sampling(**sampling), content=content)  # type: ignore[arg-type]

    @property
    def names(self) -> list[str]:
        """All names, as the spans came."""
        return [span.name for span in self.all]

    def named(self, beginning: str) -> Span:
        """The one whose name begins so."""
        (span,) = [span for span in self.all if span.name.startswith(beginning)]
        return span

    def under(self, parent: Span) -> list[Span]:
        """A span's children, by their start."""
        children = [span for span in self.all if span.parent_id == parent.context.span_id]
        assert all(child.context.trace_id == parent.context.trace_id for child in children)
        assert all(parent.start_ns <= child.start_ns <= child.end_ns <= parent.end_ns for child in children)
        return sorted(children, key=lambda span: span.start_ns)
