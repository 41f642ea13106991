"""The HTTP/1.1 edge: one connection, its requests one after another, its answers under backpressure."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import cast

import httptools

JSON = b"application/json"

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are in lower case."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes

    def header(self, name: bytes) -> str:
        """The header's value, empty when it is absent."""
        return self.headers.get(name, b"").decode("latin-1").strip()


def _nothing() -> None: ...


class Connections:
    """The connections that are open."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._none_left = asyncio.Event()

    def add(self, connection: Connection) -> None:
        self._open.add(connection)

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._none_left.set()

    async def drain(self, grace: float) -> None:
        """Closes them all, each after the answer under way, and resets what is left after `grace` seconds."""
        for connection in list(self._open):
            connection.finish()
        if self._open:
            self._none_left.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), grace)
        for connection in list(self._open):
            connection.reset()


class Connection(asyncio.Protocol):
    """Parses requests and hands them to `handle`, which answers through the methods below, at once or later.

    A client that sends its next request before it has the answer (pipelining) is disconnected.
    """

    def __init__(self, handle: Callable[[Request, Connection], None], connections: Connections) -> None:
        self._handle = handle
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._request: Request | None = None
        self._keep_alive = True
        #: True from the last byte of a request to the last byte of its answer.
        self.answering = False
        #: False while the client reads more slowly than we write.
        self.writable = True
        #: Called when `writable` has become true again, and when the client has left.
        self.on_writable: Callable[[], None] = _nothing
        self.on_gone: Callable[[], None] = _nothing

    # --- from the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.on_gone()
        self.on_writable = self.on_gone = _nothing

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.on_writable()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._keep_alive = False
            if self.answering:
                self.reset()
            else:
                self.respond(400, b"Invalid HTTP request received.", b"text/plain; charset=utf-8")
            return
        request, self._request = self._request, None
        if request:
            self._handle(request, self)

    # --- from the parser ---

    def on_message_begin(self) -> None:
        if self.answering:
            raise httptools.HttpParserError("a request before the answer to the last one")
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()
        self.answering = True
        path = self._url.partition(b"?")[0].decode("latin-1")
        # Handled once the parser has returned, or it would take the handler's exceptions for its own.
        self._request = Request(self._parser.get_method().decode(), path, self._headers, b"".join(self._body))

    # --- for the answer ---

    def respond(self, status: int, body: bytes, content_type: bytes = JSON, headers: bytes = b"") -> None:
        """Sends a whole answer. `headers` are further lines, each ended by CR LF."""
        named = b"content-type: " + content_type + b"\r\n" if body else b""
        length = b"content-length: %d\r\n" % len(body)
        shown = b"" if self._parser.get_method() == b"HEAD" else body
        self._transport.write(self._head(status, named + length + headers) + shown)
        self._answered()

    def start_stream(self, content_type: bytes) -> None:
        """Sends the head of an answer whose body comes in pieces."""
        self._transport.write(self._head(200, b"content-type: %b\r\ntransfer-encoding: chunked\r\n" % content_type))

    def write(self, events: list[bytes]) -> None:
        """Sends pieces of the body, each as its own HTTP chunk, together."""
        self._transport.write(b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events]))

    def end_stream(self) -> None:
        """Ends the body."""
        self._transport.write(b"0\r\n\r\n")
        self._answered()

    def break_off(self) -> None:
        """Closes the connection after what was written, leaving the answer without its end, as a killed server does."""
        self._transport.close()

    def reset(self) -> None:
        """Resets the connection; what is not sent yet is lost."""
        self._transport.abort()

    def finish(self) -> None:
        """No further request is taken: closes the connection, after the answer that is under way."""
        self._keep_alive = False
        if not self.answering:
            self._transport.close()

    def _head(self, status: int, headers: bytes) -> bytes:
        connection = b"" if self._keep_alive else b"connection: close\r\n"
        return _STATUS_LINES[status] + _common_headers(int(time.time())) + headers + connection + b"\r\n"

    def _answered(self) -> None:
        self.answering = False
        self.on_writable = self.on_gone = _nothing
        if not self._keep_alive:
            self._transport.close()


@lru_cache(maxsize=1)
def _common_headers(second: int) -> bytes:
    """The header lines that every answer of vLLM has; the date is formatted once a second."""
    return b"date: " + formatdate(second, usegmt=True).encode() + b"\r\nserver: uvicorn\r\nvary: Origin\r\n"
