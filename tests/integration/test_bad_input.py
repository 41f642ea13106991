"""What clients get wrong, and what attackers try: a clear refusal at once, and nothing else is disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import Mesh, MeshOptions, hold, let_go
from tests.testing.wire import Reply, Wire, post

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: weft\r\n"
CHUNKED = HEAD.encode() + b"Authorization: Bearer x\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMIT = 200_000
ASKED: dict[str, Any] = {"model": "sim-model", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4}
GOOD = json.dumps(ASKED).encode()


@contextlib.contextmanager
def started(home: Path, facade: Mapping[str, Any]) -> Iterator[Mesh]:
    """A mesh whose simulator gives 200 tokens a second."""
    mesh = hold(home, MeshOptions(facade=facade, sim=("--inter-token-s", "0.005")))
    try:
        asyncio.run(mesh.start())
        yield mesh
    finally:
        let_go(mesh)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh that takes small bodies alone, and whose environment knows only proxies that lead nowhere."""
    nowhere = "http://127.0.0.1:9"
    with pytest.MonkeyPatch.context() as environment:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY"):
            environment.setenv(name, nowhere)
            environment.setenv(name.lower(), nowhere)
        for name in ("NO_PROXY", "no_proxy"):
            environment.delenv(name, raising=False)
        with started(tmp_path_factory.mktemp("strict"), {"max_body_bytes": LIMIT}) as mesh:
            yield mesh


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with little patience, for the tests of that alone: whoever stands still between connecting and sending is
    too slow for it.
    """
    facade = {"header_timeout_s": 1.0, "body_timeout_s": 1.0}
    with started(tmp_path_factory.mktemp("hasty"), facade) as mesh:
        yield mesh


@contextlib.asynccontextmanager
async def undisturbed(mesh: Mesh, *, tokens: int = 40) -> AsyncIterator[None]:
    """A stream that is under way stays whole, and afterwards calls are served as ever."""
    bystander = Call(mesh, stream=True, tokens=tokens)
    await bystander.begun()
    yield
    assert await bystander.ending() == WHOLE
    assert (await ask(mesh, post(CHAT, GOOD, mesh.key))).status == 200


async def ask(mesh: Mesh, request: bytes, *, head_only: bool = False) -> Reply:
    """One request on a connection of its own."""
    async with Wire(mesh.url) as wire:
        await wire.send(request)
        return await wire.reply(head_only=head_only)


def message_of(reply: Reply) -> str:
    """The sentence of an error in OpenAI's, Anthropic's or vLLM's shape; every one has the request's id beside it."""
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    told = reply.json()
    if "detail" in told:
        return str(told["detail"])
    assert told["error"]["type"]
    return str(told["error"]["message"])


# The body

BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "send a JSON object"),
    "not JSON": (b"not json", "not JSON"),
    "cut short": (b'{"model": "sim-model", ', "not JSON"),
    "something behind it": (GOOD + b" x", "not JSON"),
    "an array": (b"[1]", "must be a JSON object"),
    "a string": (b'"x"', "must be a JSON object"),
    "null": (b"null", "must be a JSON object"),
    "10,000 deep": (b"[" * 10_000 + b"]" * 10_000, "parsing the body"),
    "10,000 deep inside": (GOOD[:-1] + b',"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "parsing the body"),
    "cut short 10,000 deep": (b'{"a":' * 10_000, "parsing the body"),
    "not UTF-8": (b'{"model": "\xff"}', "parsing the body"),
    "compressed, unsaid": (gzip.compress(GOOD), "parsing the body"),
    "two models": (b'{"model":"other",' + GOOD[1:], "'model' stands more than once"),
    "two models, one escaped": (rb'{"\u006dodel":"other",' + GOOD[1:], "'model' stands more than once"),
    "two streams": (b'{"stream":true,"stream":false,' + GOOD[1:], "'stream' stands more than once"),
    "a number for a model": (b'{"model": 5}', "must be a string"),
}


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/embeddings", "/tokenize", "/resource_server" + CHAT])
@pytest.mark.parametrize("name", BODIES)
async def test_bodies_that_cannot_be_read(mesh: Mesh, path: str, name: str) -> None:
    body, said = BODIES[name]
    reply = await ask(mesh, post(path, body, mesh.key))
    assert reply.status == 400
    if path == MESSAGES:
        assert reply.json()["type"] == "error"
    else:
        assert said in message_of(reply)


async def test_a_lone_surrogate_in_the_model(mesh: Mesh) -> None:
    reply = await ask(mesh, post(CHAT, rb'{"model": "\ud800", "messages": []}', mesh.key))
    assert reply.status in (400, 404)
    assert message_of(reply)


@pytest.mark.parametrize("headers", [("Content-Encoding: gzip",), ("Content-Encoding: br, gzip",)])
async def test_compressed_bodies_are_not_read(strict: Mesh, headers: tuple[str, ...]) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    async with undisturbed(strict):
        reply = await ask(strict, post(CHAT, bomb, strict.key, *headers))
        assert reply.status == 400
        assert "without it" in message_of(reply)


async def test_the_content_type_is_for_vllm_to_judge(mesh: Mesh) -> None:
    request = post(CHAT, GOOD, mesh.key).replace(b"application/json", b"text/plain")
    reply = await ask(mesh, request)
    assert "Unsupported Media Type" in message_of(reply)


@pytest.mark.parametrize("framing", [f"Content-Length: {10**9}", "Transfer-Encoding: chunked"])
async def test_too_large_a_body_is_refused_before_it_is_read(strict: Mesh, framing: str) -> None:
    head = HEAD + f"Authorization: Bearer {strict.key}\r\n{framing}\r\n\r\n"
    piece = b"x" * 65536
    if "chunked" in framing:
        piece = b"%x\r\n%b\r\n" % (len(piece), piece)
    async with undisturbed(strict), Wire(strict.url) as wire:
        await wire.send(head.encode())
        pouring = asyncio.create_task(wire.pour(piece, 200_000_000))
        reply = await wire.reply()
        assert reply.status == 413
        assert str(LIMIT) in message_of(reply)
        with pytest.raises(asyncio.IncompleteReadError):  # the end, and no reset that could destroy the answer
            await wire.receive(1)
        # Beside what is read to let the client see the answer, only the sockets' own buffers take more.
        assert await pouring < 30_000_000


async def test_a_chunk_larger_than_the_limit_in_one_piece(start_mesh: Any) -> None:
    mesh = await start_mesh(facade={"max_body_bytes": 1000})
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: weft\r\nAuthorization: Bearer {mesh.key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    body = GOOD[:-1] + b',"x":"' + b"y" * 2000 + b'"}'
    assert (await ask(mesh, head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))).status == 413


async def test_a_body_of_the_largest_size_is_served(strict: Mesh) -> None:
    body = GOOD[:-1] + b',"user":"' + b"y" * (LIMIT - len(GOOD) - 10) + b'"}'
    assert len(body) == LIMIT
    assert (await ask(strict, post(CHAT, body, strict.key))).status == 200


async def test_expect_100_continue(strict: Mesh) -> None:
    """A client that asks first sends nothing that is refused anyway."""
    head = HEAD + "Content-Type: application/json\r\nExpect: 100-continue\r\n"
    assert (
        await ask(strict, f"{head}Authorization: Bearer x\r\nContent-Length: {LIMIT + 1}\r\n\r\n".encode())
    ).status == 413
    async with Wire(strict.url) as wire:
        await wire.send(f"{head}Authorization: Bearer {strict.key}\r\nContent-Length: {len(GOOD)}\r\n\r\n".encode())
        assert (await wire.reply()).status == 100
        await wire.send(GOOD)
        assert (await wire.reply()).status == 200


# Who asks, and for what


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/embeddings", "/tokenize", "/v1/models"])
@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Authorization: Bearer nonsense",),
        ("Authorization: Bearer",),
        ("Authorization: Basic YTpi",),
        ("Authorization: " + "x" * 5000,),
        ("x-api-key: wrong",),
        ("Authorization: Bearer wéft",),
    ],
)
async def test_no_good_key(mesh: Mesh, path: str, headers: tuple[str, ...]) -> None:
    method = "GET" if path == "/v1/models" else "POST"
    reply = await ask(mesh, post(path, b"" if method == "GET" else GOOD, None, *headers, method=method))
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "key" in message_of(reply).lower()
    if path == MESSAGES:
        assert reply.json()["error"]["type"] == "authentication_error"


async def test_a_key_in_a_query_or_a_trailer_is_none(mesh: Mesh) -> None:
    assert (await ask(mesh, post(f"{CHAT}?api_key={mesh.key}", GOOD))).status == 401
    request = (
        f"POST {CHAT} HTTP/1.1\r\nHost: weft\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n"
        f"{len(GOOD):x}\r\n{GOOD.decode()}\r\n0\r\nAuthorization: Bearer {mesh.key}\r\n\r\n"
    )
    assert (await ask(mesh, request.encode())).status == 401


async def test_a_key_without_the_model(mesh: Mesh) -> None:
    key = await mesh.create_key(allow=["other-*"])
    reply = await ask(mesh, post(CHAT, GOOD, key))
    assert reply.status == 403
    assert "sim-model" in message_of(reply)
    assert "GET /v1/models" in message_of(reply)
    assert (await ask(mesh, post("/v1/models", b"", key, method="GET"))).json()["data"] == []
    reply = await ask(mesh, post(MESSAGES, GOOD, key))
    assert (reply.status, reply.json()["error"]["type"]) == (403, "permission_error")


@pytest.mark.parametrize("model", ["no-such-model", "SIM-MODEL", "sim-model\n", "../sim-model", "*", "x" * 10_000])
async def test_an_unknown_model(mesh: Mesh, model: str) -> None:
    body = json.dumps({**ASKED, "model": model}).encode()
    reply = await ask(mesh, post(CHAT, body, mesh.key))
    assert reply.status == 404
    assert reply.json()["error"]["type"] == "NotFoundError"
    assert "does not exist" in message_of(reply)


# Routes and methods


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "//v1/models",
        "/v1//models",
        "/v1/%2e%2e/metrics",
        "/v1/../metrics",
        "/v1/foo%0d%0aX-Evil:%20y",
        "/v1/foo%00",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/resource_server/v1/load_lora_adapter",
        "/scale_elastic_ep",
        "/invocations",
        "/resource_server",
        "/resource_server/v1",
        "/resource_server/a/v1/chat/completions",
        "/resource_server/../a/v1/chat/completions",
        "/resource_serverx/v1/chat/completions",
        "/openapi.json",
        "/sim/faults",
    ],
)
async def test_no_such_route(mesh: Mesh, path: str) -> None:
    reply = await ask(mesh, post(path, GOOD, mesh.key))
    assert reply.status == 404
    assert reply.json() == {"detail": "Not Found"}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", CHAT, "POST"),
        ("OPTIONS", "/tokenize", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("POST", "/v1/models/sim-model", "GET"),
        ("POST", "/health", "GET"),
        ("POST", "/version", "GET"),
        ("HEAD", CHAT, "POST"),
    ],
)
async def test_wrong_methods(mesh: Mesh, method: str, path: str, allow: str) -> None:
    async with Wire(mesh.url) as wire:
        for _ in range(2):  # the connection is still in step
            await wire.send(post(path, b"", mesh.key, method=method))
            reply = await wire.reply(head_only=method == "HEAD")
            assert (reply.status, reply.headers["allow"]) == (405, allow)
            assert reply.headers["content-length"] == "31"


async def test_paths_are_read_as_vllm_reads_them(mesh: Mesh) -> None:
    assert (await ask(mesh, post("/v1/chat%2Fcompletions", GOOD, mesh.key))).status == 200
    assert (await ask(mesh, post(CHAT + "?" + "a=b&" * 10_000, GOOD, mesh.key))).status == 200
    assert (await ask(mesh, post("http://weft" + CHAT, GOOD, mesh.key))).status == 200
    reply = await ask(mesh, post(CHAT + "/", GOOD, mesh.key))
    assert (reply.status, reply.headers["location"]) == (307, CHAT)


# The wire

ABUSES: dict[str, tuple[bytes, int]] = {
    "a request line of 100 KB": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: weft\r\n\r\n", 431),
    "headers of 200 KB": ((HEAD + "X: " + "y" * 200_000 + "\r\n\r\n").encode(), 431),
    "20,000 headers": ((HEAD + "X: yy\r\n" * 20_000 + "\r\n").encode(), 431),
    "a header name of 100 KB": ((HEAD + "X" * 100_000 + ": y\r\n\r\n").encode(), 431),
    "NUL in a header": (HEAD.encode() + b"X: a\0b\r\n\r\n", 400),
    "CR in a header": (HEAD.encode() + b"X: a\rb\r\n\r\n", 400),
    "a folded header": (HEAD.encode() + b"X: a\r\n b\r\n\r\n", 400),
    "a space before the colon": (HEAD.encode() + b"Content-Length : 2\r\n\r\n{}", 400),
    "no such method": (b"FOO /v1/models HTTP/1.1\r\nHost: weft\r\n\r\n", 400),
    "a proxy's method": (b"CONNECT weft:80 HTTP/1.1\r\nHost: weft\r\n\r\n", 400),
    "another protocol": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30), 400),
    "HTTP/3.7": (b"GET /v1/models HTTP/3.7\r\nHost: weft\r\n\r\n", 400),
    "a path that is not ASCII": ("GET /v1/models/é HTTP/1.1\r\n\r\n".encode(), 400),
    "a length and chunks": (HEAD.encode() + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and a length": (HEAD.encode() + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (HEAD.encode() + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a negative length": (HEAD.encode() + b"Content-Length: -2\r\n\r\n{}", 400),
    "a length with a sign": (HEAD.encode() + b"Content-Length: +2\r\n\r\n{}", 400),
    "a length beyond 64 bits": (HEAD.encode() + b"Content-Length: 99999999999999999999\r\n\r\n{}", 400),
    "chunks of garbage": (HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "an unknown transfer coding": (HEAD.encode() + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
    "a body with an upgrade": (
        HEAD.encode() + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
        400,
    ),
    "endless trailers": (CHUNKED + b"0\r\n" + b"X: yyyyyy\r\n" * 200_000, 431),
    "an endless chunk extension": (CHUNKED + b"2;" + b"x" * 2_000_000, 431),
}


@pytest.mark.parametrize("name", ABUSES)
async def test_abuse_of_http(strict: Mesh, name: str) -> None:
    request, status = ABUSES[name]
    async with undisturbed(strict), Wire(strict.url) as wire:
        sending = asyncio.create_task(wire.send(request))
        reply = await wire.reply()
        assert reply.status == status
        assert message_of(reply)
        assert reply.headers["connection"] == "close"
        assert await wire.rest() == b""
        await sending


async def test_5000_headers_are_borne(mesh: Mesh) -> None:
    request = post(CHAT, GOOD, mesh.key, *["X: y"] * 5000)
    assert (await ask(mesh, request)).status == 200


async def test_a_websocket_is_not_offered(mesh: Mesh) -> None:
    wanted = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x")
    lines = "\r\n".join(["GET /v1/realtime HTTP/1.1", "Host: weft", *wanted, "", ""])
    assert (await ask(mesh, lines.encode())).status == 404


@pytest.mark.parametrize("request_line", ["", "GET /v1/mod", "\r\n", f"POST {CHAT} HTTP/1.1\r\nHost: weft\r\nX: y"])
async def test_slow_headers(hasty: Mesh, request_line: str) -> None:
    """Also on a connection over which not a byte comes, or nothing but blank lines."""
    async with undisturbed(hasty, tokens=400), Wire(hasty.url) as wire:
        await wire.send(request_line.encode())
        reply = await wire.reply()
        assert reply.status == 408
        assert message_of(reply)
        assert await wire.rest() == b""


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_slow_bodies(hasty: Mesh, framing: str) -> None:
    head = HEAD + f"Authorization: Bearer {hasty.key}\r\n{framing}\r\n\r\n"
    async with undisturbed(hasty, tokens=400), Wire(hasty.url) as wire:
        await wire.send(head.encode() + (b"1\r\n{" if "chunked" in framing else b"{"))
        reply = await wire.reply()
        assert reply.status == 408
        assert await wire.rest() == b""


# Several requests on one connection


async def test_pipelined_requests_are_answered_in_order(mesh: Mesh) -> None:
    names = [f"id-{number}" for number in range(20)]
    requests = [
        post(CHAT, GOOD, mesh.key, f"X-Request-Id: {name}")
        if number % 2
        else post("/v1/models", b"", mesh.key, f"X-Request-Id: {name}", method="GET")
        for number, name in enumerate(names)
    ]
    async with Wire(mesh.url) as wire:
        await wire.send(b"".join(requests))
        replies = [await wire.reply() for _ in names]
    assert [reply.headers["x-request-id"] for reply in replies] == names
    assert {reply.status for reply in replies} == {200}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "garbage", [b"garbage\r\n\r\n", HEAD.encode() + b"X: " + b"y" * 200_000 + b"\r\n\r\n", b"GET /v1/mod"]
)
async def test_garbage_behind_a_request_does_not_reach_its_answer(hasty: Mesh, garbage: bytes, stream: bool) -> None:
    """As when a client counts characters for bytes: the answer to what came whole is whole, and nothing follows it."""
    tokens = 400  # Half a request behind it is refused before the answer is over.
    body = json.dumps({**ASKED, "stream": stream, "max_tokens": tokens}).encode()
    async with Wire(hasty.url) as wire:
        await wire.send(post(CHAT, body, hasty.key) + garbage)
        reply = await wire.reply()
        assert reply.status == 200
        if stream:
            assert reply.body.endswith(b"data: [DONE]\n\n")
        else:
            assert reply.json()["usage"]["completion_tokens"] == tokens
        assert await wire.rest() == b""


async def test_leaving_is_noticed_after_a_long_body(strict: Mesh) -> None:
    """A body that comes while it is waited for pauses the reading, and must not leave it so."""
    body = json.dumps({**ASKED, "user": "x" * 150_000, "max_tokens": 20_000}).encode()
    head = post(CHAT, body, strict.key, "Expect: 100-continue").removesuffix(body)
    async with Wire(strict.url) as wire:
        await wire.send(head)
        assert (await wire.reply()).status == 100
        await wire.send(body)
        await until_open_calls(strict, 1)
    await until_open_calls(strict, 0)


async def test_leaving_is_noticed_with_another_request_in_the_pipeline(strict: Mesh) -> None:
    body = json.dumps({**ASKED, "stream": True, "max_tokens": 20_000}).encode()
    async with Wire(strict.url) as wire:
        await wire.send(post(CHAT, body, strict.key))
        await until_open_calls(strict, 1)
        await wire.send(post("/v1/models", b"", strict.key, method="GET"))
        await wire.receive(20_000)
    await until_open_calls(strict, 0)


async def until_open_calls(mesh: Mesh, number: int) -> None:
    """Waits until so many calls are open in the router; a call of these tests lasts minutes if nobody ends it."""
    await mesh.until(
        lambda: mesh.router.metric("weft_router_open_calls"),
        lambda open_now: open_now == number,
        f"{number} calls open",
    )
