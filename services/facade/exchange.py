"""One HTTP exchange: the request becomes a call, and what comes back goes out as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from services.core.errors import Reason, ServiceError
from services.core.http_errors import render, render_event
from services.core.inference import Call, Head, Inference, Request
from services.facade.events import EventBoundary
from services.facade.guard import Connection
from services.facade.trace import LEFT, RequestTrace

Send = Callable[[dict[str, Any]], Awaitable[None]]


class ClientLeftError(Exception):
    """The client closed its connection."""


class Answer:
    """Receives one answer, and sends it to the client as fast as the client reads."""

    def __init__(
        self,
        send: Send,
        connection: Connection,
        operation: str,
        request_id: bytes,
        trace: RequestTrace | None = None,
    ) -> None:
        self._send = send
        self._connection = connection
        self._operation = operation
        self._request_id = request_id
        self._trace = trace
        self._call: Call | None = None
        self._head: Head | None = None
        self._chunks: list[bytes] = []
        self._ended = False
        self._error: ServiceError | None = None
        self._left = False
        self._woken: asyncio.Future[None] | None = None
        self._started = False
        self._boundary: EventBoundary | None = None
        self._grant_at = 0
        self._ungranted = 0
        self.status = 0

    async def relay(self, inference: Inference, request: Request, window: int) -> None:
        """Opens the call, and relays its answer. Raises `ServiceError` if it fails before the answer has begun.

        After that, a stream of events ends with an error event, and the connection of any other answer is cut.
        """
        # A frame for every chunk would travel back through the mesh; one for each half of the window is enough.
        self._grant_at = window // 2
        self._call = inference.open(request, self, window)
        self._connection.on_leave = self._leave
        try:
            await self._until_something()
            if self._head is None or (self._error is not None and not self._chunks):
                raise self._error or ServiceError(Reason.INTERNAL)
            await self._start(self._head)
            await self._relay()
        except ClientLeftError:
            self.status = LEFT
        finally:
            self._connection.on_leave = None
            self._call.cancel()

    def break_off(self, error: ServiceError) -> None:
        """Ends the call from this side."""
        if self._call is not None and not self._ended and self._error is None:
            self._call.cancel()
            self.fail(error)

    async def _start(self, head: Head) -> None:
        self.status = head.status
        if self._trace is not None:
            self._trace.begin_answer()
        headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in head.headers]
        headers = [header for header in headers if header[0] != b"x-request-id"]
        headers.append((b"x-request-id", self._request_id))
        await self._send({"type": "http.response.start", "status": head.status, "headers": headers})
        self._started = True

    async def _relay(self) -> None:
        """Sends what comes until it ends. While nothing waits, `data` writes to the connection by itself."""
        while True:
            body = b"".join(self._chunks)
            self._chunks.clear()
            ended, error = self._ended, self._error
            if error is not None and self._trace is not None:
                self._trace.error = error.reason
            if error is not None and (self._boundary is None or self._boundary.torn):
                self._connection.abort()
                return
            if error is not None:
                body += render_event(error, self._operation)
            elif ended and self._boundary is not None:
                body += self._boundary.rest()
            over = ended or error is not None
            if body or over:
                await self._send({"type": "http.response.body", "body": body, "more_body": not over})
            if over:
                return
            self._grant()
            await self._until_something()

    def _grant(self) -> None:
        """Everything that came has been sent: lets more come."""
        if self._call is not None and self._ungranted >= self._grant_at:
            self._call.grant(self._ungranted)
            self._ungranted = 0

    async def _until_something(self) -> None:
        if not (self._chunks or self._ended or self._error is not None or self._left):
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        if self._left:
            raise ClientLeftError

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _leave(self) -> None:
        self._left = True
        if self._trace is not None:
            self._trace.leave()
        if self._call is not None:
            self._call.cancel()  # At once, and not when the relaying task has its turn: a GPU is at work.
        self._wake()

    # Receiver

    def head(self, head: Head) -> None:
        """See `Receiver.head`. The first chunk, or the end, follows."""
        self._head = head
        if (head.header("content-type") or "").startswith("text/event-stream"):
            self._boundary = EventBoundary()

    def data(self, chunk: bytes) -> None:
        """See `Receiver.data`."""
        self._ungranted += len(chunk)
        if self._boundary is not None:
            chunk = self._boundary.feed(chunk)
        parked = self._started and not self._chunks and self._woken is not None and not self._woken.done()
        if parked and self._connection.send_now(chunk):
            self._grant()  # The task that relays sleeps on: waking it would cost more than the writing.
        else:
            self._chunks.append(chunk)
            self._wake()

    def end(self) -> None:
        """See `Receiver.end`."""
        self._ended = True
        self._wake()

    def fail(self, error: ServiceError) -> None:
        """See `Receiver.fail`."""
        self._error = error
        self._wake()


async def send_error(send: Send, error: ServiceError, operation: str, request_id: bytes) -> int:
    """Answers with an error; returns the status."""
    answer = render(error, operation)
    return await send_whole(send, answer.status, answer.headers, answer.body, request_id)


async def send_whole(
    send: Send, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes, request_id: bytes
) -> int:
    """Answers with something that is whole already; returns the status."""
    length = (b"content-length", str(len(body)).encode())
    headers = (*headers, length, (b"x-request-id", request_id))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
    return status
