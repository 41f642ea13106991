"""Answers apart from the data path: a call as an iterator, for those in no hurry, and an answer that is ready."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from services.core.errors import ServiceError
from services.core.inference import Head, Inference, Receiver, Request

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
        while not self.items:
            self._arrived.clear()
            await self._arrived.wait()
        return self.items.popleft()


async def stream(inference: Inference, request: Request, *, window: int = WINDOW) -> AsyncIterator[Head | bytes]:
    """Yields the head, then the chunks of the body. Leaving the iteration cancels the call.

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


async def collect(inference: Inference, request: Request) -> tuple[Head, bytes]:
    """Makes a call and returns its whole answer. Raises as `stream` does."""
    head: Head | None = None
    body = bytearray()
    async for item in stream(inference, request):
        if isinstance(item, Head):
            head = item
        else:
            body += item
    if head is None:
        raise RuntimeError("an answer ended without a head: the callee broke the inference protocol")
    return head, bytes(body)


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
