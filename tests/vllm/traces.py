"""A collector beside the tests, which are synchronous here, and what it was sent, as trees."""

import asyncio
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.testing.otlp_sink import OtlpSink, SunkSpan
from tests.vllm.processes import Deadline

# Spans come some seconds late: each process gathers them, vLLM for a second, the worker, the router; and a vLLM may
# stand still meanwhile.
ARRIVE_SECONDS = 90


@dataclass(frozen=True, slots=True)
class Caller:
    """A client's own span, which it has sampled, under which a trace is expected."""

    trace: str = field(default_factory=lambda: secrets.token_hex(16))
    span: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def header(self) -> dict[str, str]:
        return {"traceparent": f"00-{self.trace}-{self.span}-01"}


@dataclass(frozen=True, slots=True)
class Node:
    """A span and those under it, in the order of their start."""

    span: SunkSpan
    children: tuple["Node", ...]

    @property
    def outline(self) -> list[str]:
        """Every span's service, kind and name, a line each, indented."""
        span = self.span
        own = f"{span.service} {span.kind} {span.name}"
        return [own, *(f"  {line}" for child in self.children for line in child.outline)]

    def find(self, service: str, name: str = "") -> list[SunkSpan]:
        """The spans of a service whose names begin so, from the top down."""
        own = [self.span] if self.span.service == service and self.span.name.startswith(name) else []
        return own + [span for child in self.children for span in child.find(service, name)]


def trees(spans: Sequence[SunkSpan], parent: str) -> list[Node]:
    """The trees under a span."""
    under = sorted((span for span in spans if span.parent == parent), key=lambda span: span.start)
    return [Node(span, tuple(trees(spans, span.span))) for span in under]


class Collector:
    """`OtlpSink`, in a thread with a loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()

        async def make() -> OtlpSink:
            return await OtlpSink().__aenter__()

        self._sink = asyncio.run_coroutine_threadsafe(make(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._sink.__aexit__(None, None, None), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def endpoint(self) -> str:
        return f"http://{self._sink.grpc_address}"

    def spans(self, caller: Caller) -> list[SunkSpan]:
        """What has come of a trace."""
        return self._sink.trace(caller.trace)

    def named(self, caller: Caller, name: str) -> list[SunkSpan]:
        """What has come of a trace, as far as its spans' names begin so."""
        return [span for span in self.spans(caller) if span.name.startswith(name)]

    def tree(self, caller: Caller, enough: Callable[[Node], bool]) -> Node:
        """The one tree under the caller's span, once it is enough; nothing else may have come of its trace."""
        deadline = Deadline(ARRIVE_SECONDS, "the spans of a call have come")
        for _ in deadline:
            spans = self.spans(caller)
            roots = trees(spans, caller.span)
            outline = [line for root in roots for line in root.outline]
            if len(roots) == 1 and len(outline) == len(spans) and enough(roots[0]):
                return roots[0]
            deadline.awaited = "\n".join([f"the spans of a call have come; {len(spans)} have, as a tree:", *outline])
        raise AssertionError("unreachable")
