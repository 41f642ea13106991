"""A call of a client that traces, and the spans of its trace as a tree."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

import aiohttp

from tests.testing.calls import Answering
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


def new_trace() -> str:
    """The id of a trace."""
    return secrets.token_hex(16)


async def traced_chat(to: Answering, trace: str, *, seconds: float, sampled: bool = True) -> int:
    """A chat with the simulator's model by a client that traces; its status."""
    headers = {
        "Authorization": f"Bearer {to.key}",
        "traceparent": f"00-{trace}-00f067aa0ba902b7-{'01' if sampled else '00'}",
    }
    body: dict[str, Any] = {"model": "sim-model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{to.url}/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        await answer.read()
        return answer.status
