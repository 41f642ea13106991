"""uvicorn's HTTP protocol with the bounds that it lacks: size and time of headers, time of bodies, and what follows a
refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from services.core.errors import Reason, ServiceError
from services.core.http_errors import render
from services.facade.request_id import request_id_of

CONNECTION: Final = "weft.connection"
"""The key in `scope["extensions"]` under which the application finds its `Connection`."""

_DISCARDED: Final = 1024 * 1024
"""Bytes of a body that are read and dropped after its refusal, so that the client, still writing, gets to read the
answer.
"""
_LINGER: Final = 5.0
"""Seconds that a client who still writes then has to read it: to close with bytes unread resets the connection, and a
reset destroys what the client has not read (RFC 9112, 9.6).
"""

_PUNCTUATION: Final = len(b": \r\n")
_OF_BODIES: Final = frozenset({b"content-length", b"transfer-encoding"})
_NO_UPGRADE: Final = (
    "A request with a body cannot ask for another protocol; send it without the header 'Upgrade' "
    "(Java's HttpClient: set the version to HTTP_1_1)."
)


class Connection(Protocol):
    """What the application may know and do of its connection. A callback costs nothing until it is needed, where
    waiting in `receive` would cost every request a task.
    """

    on_leave: Callable[[], None] | None

    def send_now(self, body: bytes) -> bool:
        """Writes a piece from the middle of a chunked answer, if that needs no waiting; False if it was not written."""

    def abort(self) -> None:
        """Cuts the connection, so that an answer that broke off does not look whole."""


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Seconds and bytes."""

    header_timeout: float
    body_timeout: float
    max_header_bytes: int


def guarded(settings: GuardSettings) -> type[HttpToolsProtocol]:
    """The protocol with these bounds, for uvicorn's configuration."""

    class Guarded(_Guard):
        guard = settings

    return Guarded


class _Guard(HttpToolsProtocol):
    guard: GuardSettings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_leave: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._in_headers = False
        self._in_body = False
        self._framing = 0
        """Bytes since the headers began, or since the body last moved: what a message has beside its body."""
        self._discarded = 0
        self._lingering = False
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm(self.guard.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        on_leave, self.on_leave = self.on_leave, None
        if on_leave is not None:
            on_leave()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._framing += len(data)
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        in_message = self._in_headers or self._in_body
        if in_message and self._framing > self.guard.max_header_bytes:
            self._refuse(Reason.HEADERS_TOO_LARGE)
        elif in_message or self.cycle is None or self.cycle.response_complete:  # the last two: blank lines, so far
            if self._timer is None:
                self._arm(self.guard.body_timeout if self._in_body else self.guard.header_timeout)
        elif self._timer is not None:
            self._disarm()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers, self._in_body = True, False
        self._framing = 0

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._framing = self._discarded = 0
        self._disarm()
        if self._refused:
            return
        size = len(self.url) + sum([len(name) + len(value) + _PUNCTUATION for name, value in self.headers])
        if size > self.guard.max_header_bytes:
            self._refuse(Reason.HEADERS_TOO_LARGE)
            return
        if self.parser.should_upgrade() and any(name in _OF_BODIES for name, _ in self.headers):
            # The parser takes what follows for the other protocol: the body would be lost, or read as a request.
            self._refuse(Reason.HEADER_INVALID, _NO_UPGRADE)
            return
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]
        super().on_headers_complete()
        self._in_body = True
        self.headers = []  # Trailers are no headers (RFC 9110, 6.5.1): a credential there is not the client's.

    def on_body(self, body: bytes) -> None:
        self._framing = 0
        if self._refused or self.transport.is_closing():
            return
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _DISCARDED and not self._lingering:
                self._lingering = True
                self.transport.pause_reading()
                if self.transport.can_write_eof():  # else a client might keep the connection for its next request
                    self.transport.write_eof()
                self._disarm()
                self._timer = self.loop.call_later(_LINGER, self.transport.close)
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._refused or self.transport.is_closing():
            return
        super().on_message_complete()
        if not self.pipeline:
            # A long body has paused the reading, and where nobody reads, a client that leaves is not noticed.
            self.flow.resume_reading()

    def send_now(self, body: bytes) -> bool:
        cycle = self.cycle
        if self.flow.write_paused or not cycle.chunked_encoding or cycle.disconnected or cycle.response_complete:
            return False
        if body:  # An empty chunk would end the answer.
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def abort(self) -> None:
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Reason.HEADER_INVALID, "What was sent is not a valid HTTP request.")

    def _unsupported_upgrade_warning(self) -> None:
        """A request that asks for another protocol is answered as if it had not (RFC 9110, 7.8); nobody need know."""

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        self._refuse(Reason.REQUEST_TIMEOUT)

    def _refuse(self, reason: Reason, message: str | None = None) -> None:
        """Answers below the application, which has not been started or waits for a body that does not come; listens to
        nothing more on this connection.
        """
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        cycle = self.cycle
        if self._in_body and cycle.response_complete:
            self.transport.close()  # The application has refused it, before its body came.
            return
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or cycle.response_started or not self._in_body:
                self._end_after_answer()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        answer = render(ServiceError(reason, message), "")
        headers = [
            *answer.headers,
            (b"content-length", str(len(answer.body)).encode()),
            (b"x-request-id", request_id_of(self.headers or ())),
            (b"connection", b"close"),
        ]
        lines = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
        self.transport.write(STATUS_LINE[answer.status] + lines + b"\r\n" + answer.body)
        self.transport.close()

    def _end_after_answer(self) -> None:
        """The refused request came behind one that is being answered: a refusal would land in the middle of that."""
        if self.pipeline:
            self.abort()
        else:
            self.cycle.keep_alive = False
