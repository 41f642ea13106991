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
from services.facade.errors import render

CONNECTION: Final = "weft.connection"
"""The key in `scope["extensions"]` under which the application finds its `Connection`."""

_DISCARDED: Final = 1024 * 1024
"""Bytes of a body that are read and dropped after its refusal, so that the client, still writing, gets to read the
answer.
"""


class Connection(Protocol):
    """What the application may know and do of its connection. A callback costs nothing until it is needed, where
    waiting in
    `receive` would cost every request a task."""

    on_leave: Callable[[], None] | None

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
        self._header_bytes = 0
        self._discarded = 0

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
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_headers and self._header_bytes > self.guard.max_header_bytes:
            self._refuse(Reason.HEADERS_TOO_LARGE)
        elif self._in_headers or self._in_body:
            if self._timer is None:
                self._arm(self.guard.header_timeout if self._in_headers else self.guard.body_timeout)
        elif self._timer is not None:
            self._disarm()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers, self._in_body = True, False
        self._header_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_headers, self._in_body = False, True
        self._discarded = 0
        self._disarm()
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > self.guard.max_header_bytes:
            self._refuse(Reason.HEADERS_TOO_LARGE)
            return
        self.on_leave = None
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _DISCARDED:
                self.transport.close()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if not self.transport.is_closing():
            super().on_message_complete()

    def abort(self) -> None:
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Reason.HEADER_INVALID)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self._in_body and self.cycle.response_started:
            self.transport.close()  # It was refused before its body came.
        else:
            self._refuse(Reason.REQUEST_TIMEOUT)

    def _refuse(self, reason: Reason) -> None:
        """Answers below the application, which has not been started or waits for a body that does not come."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        answer = render(ServiceError(reason), "")
        headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode()), (b"connection", b"close")]
        lines = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
        self.transport.write(STATUS_LINE[answer.status] + lines + b"\r\n" + answer.body)
        self.transport.close()
