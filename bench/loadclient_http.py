"""The load client's HTTP: where requests go, and one connection that times what comes back.

It is a bare protocol over httptools, so that the client costs less than what it measures.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from array import array
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import httptools

#: Bounds of one run.
MAX_CONNECTIONS = 10_000
MAX_REQUESTS = 5_000_000
MAX_CHUNKS = 20_000_000
MAX_SECONDS = 600.0

#: Connections that are opened at the same time, well below a listener's backlog.
_OPENING = 64

_FILLER = "The mesh carries this question to a model and its answer back. "


@dataclass(frozen=True, slots=True)
class Target:
    """An OpenAI-compatible service on this machine.

    `base_url` is without `/v1`. Raises ValueError unless it is `http` on a loopback address: a load client must not
    be pointed at anybody else's machine by mistake.
    """

    base_url: str
    model: str
    key: str | None = None
    #: Bytes of the prompt of each request.
    prompt_bytes: int = 600

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        host = "127.0.0.1" if url.hostname == "localhost" else url.hostname or ""
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if url.scheme != "http" or not loopback:
            raise ValueError(f"{self.base_url}: the load client goes to http:// on a loopback address only")

    @property
    def address(self) -> tuple[str, int]:
        url = urlsplit(self.base_url)
        return url.hostname or "", url.port or 80

    def chat_request(self, *, max_tokens: int, stream: bool) -> bytes:
        """The bytes of one chat request."""
        prompt = (_FILLER * (1 + self.prompt_bytes // len(_FILLER)))[: self.prompt_bytes]
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
                "stream": stream,
            }
        ).encode()
        host, port = self.address
        lines = [
            f"POST {urlsplit(self.base_url).path.rstrip('/')}/v1/chat/completions HTTP/1.1",
            f"host: {host}:{port}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        if self.key:
            lines.append(f"authorization: Bearer {self.key}")
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class Answer:
    """One answer as it arrived. Times are `perf_counter` seconds."""

    sent_at: float
    status: int = 0
    #: The body of an answer that is not an event stream, or of an error.
    body: bytes = b""
    body_bytes: int = 0
    #: True when HTTP's own framing says that the body is whole.
    ended: bool = False
    events: int = 0
    first_event_at: float = 0.0
    last_event_at: float = 0.0
    #: Seconds between successive events; 0 for events that came in one read.
    gaps: array[float] = field(default_factory=lambda: array("d"))
    #: The last bytes of an event stream.
    tail: bytes = b""

    @property
    def done(self) -> bool:
        """Whether an event stream came to its regular end: `[DONE]`, and the end of the body."""
        return self.status == 200 and self.ended and self.tail.endswith(b"data: [DONE]\n\n")


class Connection(asyncio.Protocol):
    """One connection, one request at a time. Made by `connect`."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._finished: asyncio.Future[Answer] | None = None
        self._streamed = False
        self._now = 0.0
        self.closed = False
        #: The answer under way, or the last one.
        self.answer = Answer(0.0)
        #: Done when the status is known, or the connection is lost.
        self.head: asyncio.Future[None]

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Sends a request; the result is its answer, cut short (not `ended`) if the connection is lost."""
        self.answer = Answer(perf_counter())
        self._streamed = False
        loop = asyncio.get_running_loop()
        self.head, self._finished = loop.create_future(), loop.create_future()
        if self.closed:
            self._finish()
        else:
            self._transport.write(request)
        return self._finished

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._finish()

    def data_received(self, data: bytes) -> None:
        self._now = perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._streamed = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()
        if not self.head.done():
            self.head.set_result(None)

    def on_body(self, body: bytes) -> None:
        answer = self.answer
        answer.body_bytes += len(body)
        if not self._streamed:
            answer.body += body
            return
        # No event holds a raw line feed, so an empty line is the end of one; it may lie across two reads.
        ends = (answer.tail[-1:] + body).count(b"\n\n")
        answer.tail = (answer.tail + body)[-16:]
        if not ends:
            return
        if answer.events:
            answer.gaps.append(self._now - answer.last_event_at)
        else:
            answer.first_event_at = self._now
        answer.gaps.extend([0.0] * (ends - 1))
        answer.events += ends
        answer.last_event_at = self._now

    def on_message_complete(self) -> None:
        self.answer.ended = True
        if not self._parser.should_keep_alive():
            self.closed = True
            self._transport.close()
        self._finish()

    def _finish(self) -> None:
        if self._finished and not self._finished.done():
            self._finished.set_result(self.answer)
            if not self.head.done():
                self.head.set_result(None)


async def connect(target: Target) -> Connection:
    """A new connection to the target. Raises OSError if it refuses."""
    host, port = target.address
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection


async def open_connections(target: Target, count: int) -> list[Connection]:
    """So many new connections to the target. Raises OSError if it refuses one."""
    opened: list[Connection] = []
    while len(opened) < count:
        batch = min(_OPENING, count - len(opened))
        opened += await asyncio.gather(*(connect(target) for _ in range(batch)))
    return opened


def bound(**values: tuple[float, float]) -> None:
    """Raises ValueError for the first value that is not above 0 and at most its highest."""
    for name, (value, highest) in values.items():
        if not 0 < value <= highest:
            raise ValueError(f"{name}: must be above 0 and at most {highest:g}, got {value:g}")
