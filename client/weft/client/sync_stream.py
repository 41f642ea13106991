"""An answer that comes in pieces, for plain code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self

import grpc
from weft.client.calling import Calling
from weft.client.course import Course
from weft.client.rpcs import Piece, StreamRpc, Whole


class Stream(Generic[Piece, Whole]):
    """Iterates over the pieces; the call begins with the first. Leaving the `with` cancels what has not come.

        with client.stream_chat("llama-70b", "Hello") as stream:
            for text in stream.text():
                print(text, end="", flush=True)
            print(stream.result().usage.total_tokens)

    Iterating raises `WeftError`, and `Truncated` where the stream ends without the answer's end.
    """

    def __init__(
        self,
        rpc: StreamRpc[Any, Piece, Whole],
        calling: Calling,
        start: Callable[[Calling], Any],
        sleep: Callable[[float], None],
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

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        while not self._course.over:
            try:
                self._call = self._call or self._start(self._calling)
                return self._course.came(next(self._call))
            except StopIteration:
                self._course.ended()
            except grpc.RpcError as failed:
                self._call = None
                self._course.over = True  # unless it is tried again
                pause = self._calling.failed(failed, begun=bool(self._course.pieces))
                self._course.over = False
                self._sleep(pause)
        raise StopIteration

    def text(self) -> Iterator[str]:
        """The text as it comes: that of the first choice."""
        return (text for piece in self if (text := self._course.text_of(piece)))

    def result(self) -> Whole:
        """Reads what has not come yet, and gives the whole answer."""
        for _ in self:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
