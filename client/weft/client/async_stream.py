"""An answer that comes in pieces, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Self

import grpc
from weft.client.calling import Calling
from weft.client.course import Course
from weft.client.rpcs import Piece, StreamRpc, Whole


class AsyncStream(Generic[Piece, Whole]):
    """Iterates over the pieces; the call begins with the first. Leaving the `async with` cancels what has not come.

        async with client.stream_chat("llama-70b", "Hello") as stream:
            async for text in stream.text():
                print(text, end="", flush=True)
            print((await stream.result()).usage.total_tokens)

    Iterating raises `WeftError`, and `Truncated` where the stream ends without the answer's end.
    """

    def __init__(
        self,
        rpc: StreamRpc[Any, Piece, Whole],
        calling: Calling,
        start: Callable[[Calling], Awaitable[Any]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._calling = calling
        self._start = start
        self._sleep = sleep
        self._call: Any = None
        self._course = Course(rpc, calling.request_id)

    @property
    def request_id(self) -> str:
        """Under which the mesh's logs and traces have the call."""
        return self._calling.request_id

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        while not self._course.over:
            try:
                self._call = self._call or await self._start(self._calling)
                piece = await self._call.read()
                if piece is not grpc.aio.EOF:
                    return self._course.came(piece)
                self._course.ended()
            except grpc.RpcError as failed:
                self._call = None
                self._course.over = True  # unless it is tried again
                pause = self._calling.failed(failed, begun=bool(self._course.pieces))
                self._course.over = False
                await self._sleep(pause)
            except asyncio.CancelledError:
                self._calling.cancelled()
                raise
        raise StopAsyncIteration

    async def text(self) -> AsyncIterator[str]:
        """The text as it comes: that of the first choice."""
        async for piece in self:
            if text := self._course.text_of(piece):
                yield text

    async def result(self) -> Whole:
        """Reads what has not come yet, and gives the whole answer."""
        async for _ in self:
            pass
        return self._course.result()

    def so_far(self) -> Whole:
        """What has come until now, as an answer; after an error too."""
        return self._course.so_far()

    def close(self) -> None:
        """Cancels the call, unless it has ended."""
        self._course.over = True
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()
