"""Calls over HTTP against a server that the test plays itself, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Request
from services.upstream.http import HttpInference, open_session
from tests.testing.processes import HeldPort
from tests.testing.streams import Answer

REQUEST = Request(
    "/v1/completions",
    (("content-type", "application/json"), ("authorization", "Bearer client"), ("cookie", "c"), ("x-request-id", "1")),
    b'{"model": "m"}',
)
SOON = 20.0
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Connection:
    """A client's connection, in the hands of the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def request(self) -> tuple[bytes, bytes]:
        """The head and the body of the next request."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        return head, await self._reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        """Sends, waiting where the client does not read."""
        self._writer.write(data)
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Sends one chunk of a chunked body."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def closed(self) -> None:
        """Waits until the client has closed it."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def close(self, *, reset: bool = False) -> None:
        """Closes it."""
        if reset:
            self._writer.transport.abort()
        else:
            self._writer.close()


class Server:
    """Takes connections, on a port of loopback or a unix socket, for the test to answer."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.url = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.put_nowait(Connection(reader, writer))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield made
    listening.close()


@pytest.fixture
async def upstream(server: Server) -> AsyncIterator[HttpInference]:
    made = HttpInference(open_session(server.url), server.url, what="vLLM", bounds=Bounds())
    yield made
    await made.close()
    assert made.open_calls == 0


def call(upstream: HttpInference, request: Request = REQUEST, credit: int = 1 << 20) -> tuple[Answer, Call]:
    answer = Answer()
    opened = upstream.open(request, answer, credit)
    answer.opened = True
    return answer, opened


async def body_of(answer: Answer, size: int) -> None:
    """Waits until so many bytes have come."""
    enough = asyncio.Event()
    answer.on_data = lambda chunk: enough.set() if len(answer.body) >= size else None
    if len(answer.body) < size:
        await asyncio.wait_for(enough.wait(), SOON)


async def over(answer: Answer) -> None:
    """Waits until the call has ended."""
    await asyncio.wait_for(answer.over.wait(), SOON)


async def test_bytes_pass_through_chunk_by_chunk(server, upstream):
    answer, _ = call(upstream)
    connection = await server.connections.get()
    head, body = await connection.request()
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert body == REQUEST.body
    await connection.send(CHUNKED)
    for number, chunk in enumerate([b"data: {}\n\n", b"\x00\xff\xc3", b"\xa9", b"data: [DONE]\n\n"], 1):
        before = len(answer.body)
        await connection.chunk(chunk)
        await body_of(answer, before + len(chunk))
        assert answer.body[before:] == chunk, f"chunk {number} came at once"
    await connection.send(b"0\r\n\r\n")
    await over(answer)
    assert (answer.heads[0].status, answer.ends) == (200, [None])


async def test_headers_travel_by_a_list_both_ways(server, upstream):
    upstream.api_key = lambda: "ours"
    answer, _ = call(upstream)
    connection = await server.connections.get()
    head, _ = await connection.request()
    lines = {line.lower() for line in head.split(b"\r\n")[1:]}
    assert {b"authorization: bearer ours", b"x-request-id: 1", b"content-type: application/json"} <= lines
    names = {line.split(b":")[0] for line in lines if line}
    assert names == {b"host", b"authorization", b"x-request-id", b"content-type", b"content-length"}
    await connection.send(
        b"HTTP/1.1 429 Too Many\r\nContent-Type: text/plain\r\nRetry-After: 7\r\nSet-Cookie: a=b\r\n"
        b"Server: uvicorn\r\nX-Request-Id: 1\r\nContent-Length: 2\r\n\r\nno"
    )
    await over(answer)
    assert answer.heads[0].status == 429
    assert dict(answer.heads[0].headers) == {
        "content-type": "text/plain",
        "retry-after": "7",
        "x-request-id": "1",
        "content-length": "2",
    }
    assert bytes(answer.body) == b"no"


async def test_the_clients_credential_never_travels(server, upstream):
    _, opened = call(upstream)
    head, _ = await (await server.connections.get()).request()
    assert b"authorization" not in head.lower()
    opened.cancel()


async def test_credit_paces_the_reading_and_bounds_the_memory(server, upstream):
    """While nothing is granted, the server cannot write on: the socket fills."""
    answer, opened = call(upstream, credit=1000)
    connection = await server.connections.get()
    await connection.request()
    size = 64 << 20
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
    sent = 0

    async def write() -> None:
        nonlocal sent
        while sent < size:
            await connection.send(b"x" * 65536)
            sent += 65536

    writing = asyncio.create_task(write())
    await body_of(answer, 1000)
    before = -1
    while before != sent:  # until a long turn of the loop has written no more
        before = sent
        await asyncio.wait([writing], timeout=0.2)
    assert len(answer.body) == 1000
    assert sent < size / 4
    answer.on_data = lambda chunk: opened.grant(len(chunk))
    opened.grant(1 << 18)
    await over(answer)
    assert (len(answer.body), answer.ends) == (size, [None])


async def test_an_empty_answer(server, upstream):
    answer, _ = call(upstream, credit=0)
    connection = await server.connections.get()
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await over(answer)
    assert (answer.heads[0].status, answer.ends) == (200, [None])


@pytest.mark.parametrize("when", ["connected", "headed", "streaming", "paused"])
async def test_leaving_closes_the_connection(server, upstream, when):
    answer, opened = call(upstream, credit=1 if when == "paused" else 100)
    connection = await server.connections.get()
    await connection.request()
    if when != "connected":
        await connection.send(CHUNKED)
    if when in ("streaming", "paused"):
        await connection.chunk(b"abc")
        await body_of(answer, 1)
    opened.cancel()
    answer.left = True
    await connection.closed()


@pytest.mark.parametrize(
    "answered",
    [CHUNKED + b"3\r\nabc\r\n", CHUNKED + b"9\r\nabc", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"],
)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_truncated_answer_never_looks_whole(server, upstream, answered, reset):
    answer, _ = call(upstream)
    connection = await server.connections.get()
    await connection.request()
    await connection.send(answered)
    await body_of(answer, 3)
    connection.close(reset=reset)
    await over(answer)
    assert (answer.heads[0].status, answer.reason, bytes(answer.body)) == (200, Reason.UPSTREAM_BROKEN, b"abc")


async def test_an_answer_that_is_not_http(server, upstream):
    answer, _ = call(upstream)
    connection = await server.connections.get()
    await connection.request()
    await connection.send(b"220 smtp.example.org ESMTP\r\n\r\n")
    await over(answer)
    assert (answer.heads, answer.reason) == ([], Reason.UPSTREAM_BROKEN)


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_died_in_the_pool_is_tried_once_more(server, upstream, reset):
    first, _ = call(upstream)
    pooled = await server.connections.get()
    await pooled.request()
    await pooled.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    await over(first)
    second, _ = call(upstream)
    await pooled.request()
    pooled.close(reset=reset)
    fresh = await server.connections.get()
    assert (await fresh.request())[1] == REQUEST.body
    await fresh.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    await over(second)
    assert (bytes(second.body), second.ends) == (b"ok", [None])


async def test_a_server_that_hangs_up_twice_is_broken(server, upstream):
    answer, _ = call(upstream)
    for _ in range(2):
        connection = await server.connections.get()
        await connection.request()
        connection.close()
    await over(answer)
    assert answer.reason is Reason.UPSTREAM_BROKEN
    assert server.connections.empty()


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "unix:{folder}/none.sock"])
async def test_a_server_that_is_not_there(url, tmp_path):
    port = HeldPort()
    url = url.format(port=port.port, folder=tmp_path)
    upstream = HttpInference(open_session(url), url, what="vLLM", bounds=Bounds())
    answer, _ = call(upstream)
    await over(answer)
    assert answer.error is not None
    assert answer.reason is Reason.UPSTREAM_UNREACHABLE
    assert answer.error.message.startswith("vLLM cannot be reached: ")
    await upstream.close()
    port.close()


async def test_a_unix_socket(tmp_path: Path):
    server = Server()
    listening = await asyncio.start_unix_server(server.accept, tmp_path / "vllm.sock")
    url = f"unix:{tmp_path}/vllm.sock"
    upstream = HttpInference(open_session(url), url, what="vLLM", bounds=Bounds())
    answer, _ = call(upstream)
    connection = await asyncio.wait_for(server.connections.get(), SOON)
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    await over(answer)
    assert (bytes(answer.body), answer.ends) == (b"ok", [None])
    await upstream.close()
    listening.close()


async def test_a_redirect_is_an_answer_and_not_followed(server, upstream):
    answer, _ = call(upstream)
    connection = await server.connections.get()
    await connection.request()
    await connection.send(b"HTTP/1.1 307 x\r\nlocation: %b/other\r\ncontent-length: 0\r\n\r\n" % server.url.encode())
    await over(answer)
    assert (answer.heads[0].status, answer.heads[0].header("location")) == (307, None)
    assert server.connections.empty()


async def test_proxies_of_the_environment_are_somebody_elses(server, monkeypatch):
    port = HeldPort()
    dead = f"http://127.0.0.1:{port.port}"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, dead)
    upstream = HttpInference(open_session(server.url), server.url, what="vLLM", bounds=Bounds())
    answer, _ = call(upstream)
    connection = await server.connections.get()
    assert (await connection.request())[0].startswith(b"POST /v1/completions ")
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await over(answer)
    await upstream.close()
    port.close()


async def test_a_key_that_cannot_be_had_ends_the_call(server, upstream):
    def no_key() -> str:
        raise ServiceError(Reason.UPSTREAM_UNREACHABLE, "no key")

    upstream.api_key = no_key
    answer, _ = call(upstream)
    await over(answer)
    assert answer.reason is Reason.UPSTREAM_UNREACHABLE
    assert server.connections.empty()


async def test_closing_tells_every_caller(server, upstream):
    answer, _ = call(upstream)
    connection = await server.connections.get()
    await connection.request()
    await upstream.close()
    assert answer.reason is Reason.SHUTTING_DOWN
    await connection.closed()


async def test_retiring_lets_open_calls_finish(server, upstream):
    answer, _ = call(upstream)
    connection = await server.connections.get()
    await connection.request()
    retiring = asyncio.create_task(upstream.retire())
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    await retiring
    assert (bytes(answer.body), answer.ends) == (b"ok", [None])
