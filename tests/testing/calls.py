"""One chat completion under way over HTTP, and how it ended: whole, or visibly not.

call = Call(mesh, stream=True, tokens=200)
await call.begun()
await mesh.workers[0].kill()
assert await call.ending() == "worker_lost"
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import aiohttp
import pytest

from tests.testing.processes import SOON

WHOLE = "whole"
CUT = "cut"
"""The connection was broken off, which no client takes for the end of an answer."""

DONE = "data: [DONE]"


class Answering(Protocol):
    """What takes calls, and the key for it: a mesh."""

    @property
    def url(self) -> str:
        """The base of the HTTP API, before `/v1`."""

    @property
    def key(self) -> str:
        """A key."""


class Call:
    """A call on a connection of its own; it begins at once. `tokens` is how long its answer shall be; where it is not
    `counted`, that is the most: a real vLLM may be at its end sooner, and tell two tokens in one event.
    """

    def __init__(
        self,
        to: Answering,
        *,
        stream: bool,
        tokens: int = 4,
        counted: bool = True,
        model: str = "sim-model",
        key: str | None = None,
        prefix: str = "",
        url: str | None = None,
    ) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = bytearray()
        self.cut = False
        self.began_at = time.monotonic()
        self.ended_at = 0.0
        self._stream = stream
        self._tokens = tokens
        self._counted = counted
        self._moved = asyncio.Event()
        request = {
            "model": model,
            "messages": [{"role": "user", "content": "Tell me of looms."}],
            "max_tokens": tokens,
            "stream": stream,
        }
        credential = {"Authorization": f"Bearer {key or to.key}"}
        self._task = asyncio.create_task(
            self._run(f"{url or to.url}{prefix}/v1/chat/completions", json.dumps(request), credential)
        )

    @property
    def events(self) -> list[str]:
        """The server-sent events that have come whole."""
        return [event for event in self.body.decode(errors="replace").split("\n\n")[:-1] if event]

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._task.done()

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_at - self.began_at

    async def begun(self, events: int = 3, seconds: float = SOON) -> None:
        """Waits until so many events have come; fails if it ends before."""
        async with _soon(f"a call had {events} events", seconds):
            while len(self.events) < events:
                assert not self.over, f"it ended as {self._ending()} after {len(self.events)} events"
                self._moved.clear()
                await self._moved.wait()

    async def ending(self, seconds: float = SOON) -> str:
        """`whole`, `cut`, or the code of the error that it ended with. Fails on a hang, and on an answer that looks
        whole and is not.
        """
        async with _soon("a call ended", seconds):
            await asyncio.wait([self._task])
        return self._ending()

    async def leave(self) -> None:
        """Closes the connection, as a client that has gone."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, url: str, body: str, headers: dict[str, str]) -> None:
        headers = {**headers, "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=None)
        try:
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as session,
                session.post(url, data=body, headers=headers) as response,
            ):
                self.status, self.headers = response.status, response.headers
                while chunk := await response.content.readany():
                    self.body += chunk
                    self._moved.set()
        except (aiohttp.ClientError, OSError):
            self.cut = True
        finally:
            self.ended_at = time.monotonic()
            self._moved.set()

    def _ending(self) -> str:
        if self.cut:
            return CUT
        if self._stream and self.status == 200:
            return self._ending_of_stream()
        answer = json.loads(self.body)
        if self.status != 200:
            return str(answer["error"]["code"])
        assert answer["usage"]["completion_tokens"] == self._tokens, f"truncated and looks whole: {answer}"
        return WHOLE

    def _ending_of_stream(self) -> str:
        assert self.body.endswith(b"\n\n"), f"half an event at the end: {self.body[-200:]!r}"
        events = [event for event in self.events if not event.startswith(":")]  # heartbeats of a call that waited
        assert events, "only heartbeats, and looks whole"
        last = events[-1]
        if last == DONE:
            if self._counted:
                # One event opens the stream and one is [DONE].
                assert len(events) == self._tokens + 2, f"{len(events)} events, and looks whole"
            else:
                assert '"finish_reason":"' in events[-2], f"no reason to end, and looks whole: {events[-2]}"
            return WHOLE
        error: dict[str, Any] = json.loads(last.removeprefix("data: ")).get("error")
        assert error, f"it ended with neither [DONE] nor an error: {last}"
        assert error["message"]
        return str(error["code"])


@contextlib.asynccontextmanager
async def _soon(what: str, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        pytest.fail(f"not within {seconds:g} s: {what}")
