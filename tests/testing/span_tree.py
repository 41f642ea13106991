"""The spans of one trace as a tree, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.testing.otlp_sink import SunkSpan


class SpanTree:
    """The spans of one trace, of those that a sink has."""

    def __init__(self, spans: Iterable[SunkSpan], trace: str) -> None:
        self.spans = sorted((span for span in spans if span.trace == trace), key=lambda span: span.start)

    def one(self, name: str, service: str = "") -> SunkSpan:
        """The only span of this name, or whose name begins so; of one service if there is one named."""
        found = [span for span in self.spans if span.name.startswith(name) and service in ("", span.service)]
        assert len(found) == 1, f"{len(found)} spans '{name}':\n{self}"
        return found[0]

    def below(self, parent: SunkSpan) -> list[str]:
        """The names of the spans right under one, in the order of their start."""
        return [span.name for span in self.spans if span.parent == parent.span]

    def __str__(self) -> str:
        return "\n".join(f"{one.service}: {one.name} {one.span} under {one.parent or '-'}" for one in self.spans)


def having(trace: str, *names: str) -> Callable[[list[SunkSpan]], bool]:
    """Whether a trace has spans of these names, or whose names begin so: for `OtlpSink.wait_for`."""

    def enough(spans: list[SunkSpan]) -> bool:
        there = [span.name for span in spans if span.trace == trace]
        return all(any(one.startswith(name) for one in there) for name in names)

    return enough
