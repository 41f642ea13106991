"""Answers apart from the data path: a call as an iterator, for those in no hurry, and an answer that is ready."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator

from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Head, Inference, Receiver, Request

WINDOW = 256 * 1024
"""Bytes of answer body that are on their way at most, by default."""


class _Inbox:
    """A receiver that keeps what comes until it is asked for; the credit bounds how much that can be."""

    def __init__(self) -> None:
        self.items: deque[Head | bytes | ServiceError | None] = deque()
        self._arrived = asyncio.Event()

    def _put(self, item: Head | bytes | ServiceError | None) -> None:
        self.items.append(item)
        self._arrived.set()

    def head(self, head: Head) -> None:
        self._put(head)

    def data(self, chunk: bytes) -> None:
        self._put(chunk)

    def end(self) -> None:
        self._put(None)

    def fail(self, error: ServiceError) -> None:
        self._put(error)

    async def take(self) -> Head | bytes | ServiceError | None:
        """What came first; bytes that wait together, in one piece."""
        items = self.items
        while not items:
            self._arrived.clear()
            await self._arrived.wait()
        item = items.popleft()
        if isinstance(item, bytes) and items and isinstance(items[0], bytes):
            chunks = [item]
            while items and isinstance(more := items[0], bytes):
                chunks.append(more)
                items.popleft()
            return b"".join(chunks)
        return item


async def stream(inference: Inference, request: Request, *, window: int = WINDOW) -> AsyncGenerator[Head | bytes, None]:
    """Yields the head, then the body, in pieces as large as have come. Leaving the iteration cancels the call.

    Raises `ServiceError` when the call is refused or breaks off.
    """
    inbox = _Inbox()
    call = inference.open(request, inbox, window)
    try:
        while (item := await inbox.take()) is not None:
            if isinstance(item, ServiceError):
                raise item
            yield item
            if isinstance(item, bytes):
                call.grant(len(item))
    finally:
        call.cancel()


class _Whole:
    """A receiver that keeps all, and is granted anew when half of its window has come."""

    def __init__(self, window: int, most: float) -> None:
        self.answer: asyncio.Future[tuple[Head, bytes]] = asyncio.get_running_loop().create_future()
        self.call: Call | None = None
        self._head: Head | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._window = self._left = window
        self._most = most

    def head(self, head: Head) -> None:
        self._head = head

    def data(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._left -= len(chunk)
        if self._size > self._most:
            message = f"The answer is larger than {self._most} bytes; ask for less at once, or for a stream."
            self.fail(ServiceError(Reason.ANSWER_TOO_LARGE, message))
        elif self._left * 2 <= self._window and self.call is not None:
            granted, self._left = self._window - self._left, self._window
            self.call.grant(granted)

    def end(self) -> None:
        if self.answer.done():
            return
        if self._head is None:
            self.answer.set_exception(RuntimeError("an answer ended without a head: the callee broke the protocol"))
        else:
            self.answer.set_result((self._head, b"".join(self._chunks)))

    def fail(self, error: ServiceError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


async def collect(
    inference: Inference, request: Request, *, window: int = WINDOW, most: float = math.inf
) -> tuple[Head, bytes]:
    """Makes a call and returns its whole answer. Raises as `stream` does, and ANSWER_TOO_LARGE for a body of more than
    `most` bytes.
    """
    whole = _Whole(window, most)
    whole.call = call = inference.open(request, whole, window)
    try:
        return await whole.answer
    finally:
        call.cancel()


class ReadyAnswer:
    """A call whose answer is there already, as a `Call`. `tell` gives it, once `open` has returned."""

    def __init__(self, answer: tuple[Head, bytes] | ServiceError, receiver: Receiver, credit: int) -> None:
        self._answer = answer
        self._receiver: Receiver | None = receiver
        self._credit = credit
        self._sent = 0
        self._told = False

    def tell(self) -> None:
        """Gives the answer, or as much of it as was granted, unless the caller has left."""
        self._told = True
        if self._receiver is None:
            return
        if isinstance(self._answer, ServiceError):
            self._receiver.fail(self._answer)
        else:
            self._receiver.head(self._answer[0])
            self._send(self._answer[1])

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        self._credit += credit
        if self._told and not isinstance(self._answer, ServiceError):
            self._send(self._answer[1])

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._receiver = None

    def _send(self, body: bytes) -> None:
        piece = body[self._sent : self._sent + self._credit]
        if self._receiver is not None and piece:
            self._sent += len(piece)
            self._credit -= len(piece)
            self._receiver.data(piece)
        if self._receiver is not None and self._sent == len(body):
            receiver, self._receiver = self._receiver, None
            receiver.end()
