"""Typed RPCs over a real socket, with the calls behind them in the test's hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from weft.inference.v1 import chat_pb2, embeddings_pb2, inference_pb2_grpc

from services.core.answers import WINDOW
from services.core.errors import Reason, ServiceError
from services.core.inference import Head, Headers, Inference
from services.core.principal import Principal
from services.router.rpc_request import Context
from services.router.typed_servicer import TYPED, TypedServicer
from services.rpc.boundary import Boundary, Open
from services.rpc.channel import CHANNEL_OPTIONS
from services.rpc.server import GrpcServer
from services.rpc.status import STATUS_METADATA
from tests.testing.processes import SOON
from tests.testing.streams import Answerer, Served

SERVICE = "weft.inference.v1.InferenceService"
JSON = (("content-type", "application/json"),)
EVENTS = (("content-type", "text/event-stream; charset=utf-8"),)
ANSWER = b'{"id":"c-1","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}'
CHAT = chat_pb2.ChatRequest(model="m", messages=[{"role": "user", "text": "a"}], cluster="sophia")
MIB = 1 << 20
STREAM = chat_pb2.StreamChatRequest(chat=CHAT)


class Servicer(TypedServicer):
    def __init__(self) -> None:
        self.answerer = Answerer()

    async def knows(self, context: Context) -> bool:
        return "authorization" in dict(context.invocation_metadata() or ())

    async def inference_for(self, context: Context) -> Inference:
        return self.answerer


class Nobody:
    async def authenticate(self, credential: str | None) -> Principal:
        raise AssertionError("the gateway judges the credentials of calls")


@dataclass
class World:
    stub: inference_pb2_grpc.InferenceServiceStub
    answerer: Answerer
    address: str

    async def served(self) -> Served:
        async with asyncio.timeout(SOON):
            await self.answerer.arrived.wait()
        return self.answerer.calls[-1]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    servicer = Servicer()
    server = GrpcServer(
        "127.0.0.1:0",
        Boundary({f"/{SERVICE}/{method}": Open.TO_ALL for method in TYPED}, Nobody()),
        (SERVICE,),
        (lambda server: inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server),),
    )
    await server.start()
    async with grpc.aio.insecure_channel(server.address, CHANNEL_OPTIONS) as channel:
        yield World(inference_pb2_grpc.InferenceServiceStub(channel), servicer.answerer, server.address)
    await server.stop(0)


def answer(served: Served, body: bytes = ANSWER, status: int = 200, headers: Headers = JSON) -> None:
    served.receiver.head(Head(status, headers))
    served.data(body)
    served.receiver.end()


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c-1", "choices": [choice]}).encode() + b"\n\n"


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """What stands in a rich status, by the kinds of its details."""
    packed = dict(error.trailing_metadata() or ())[STATUS_METADATA]
    found: dict[str, Any] = {}
    for one in status_pb2.Status.FromString(packed).details:
        kind = one.TypeName().rpartition(".")[2]
        found[kind] = message = getattr(error_details_pb2, kind)()
        assert one.Unpack(message)
    return found


async def until(true: Callable[[], bool]) -> None:
    """Waits for what the other end of a socket does."""
    async with asyncio.timeout(SOON):
        while not true():  # noqa: ASYNC110 - it happens in code that tells nobody
            await asyncio.sleep(0.005)


@asynccontextmanager
async def refused(world: World, call: Any) -> AsyncIterator[tuple[Served, Callable[[], grpc.aio.AioRpcError]]]:
    """A call that is to fail, and its error after the body."""
    waiting = asyncio.ensure_future(call)
    served = await world.served()
    caught: list[grpc.aio.AioRpcError] = []
    yield served, lambda: caught[0]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await waiting
    caught.append(raised.value)


async def test_a_chat_is_a_call_and_its_answer_a_message(world: World) -> None:
    metadata = (("authorization", "Bearer k"), ("prefer", "wait=5"), ("x-request-id", "r-1"), ("content-type", "x"))
    call = world.stub.Chat(CHAT, metadata=metadata[:3], timeout=SOON)
    served = await world.served()
    request = served.request
    assert (request.operation, request.method, request.cluster) == ("/v1/chat/completions", "POST", "sophia")
    assert json.loads(request.body) == {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    for header in metadata[:3]:
        assert header in request.headers
    assert request.header("content-type") == "application/json"
    assert request.timeout is not None
    assert SOON - 5 < request.timeout <= SOON + 1, "gRPC rounds what it sends of a deadline up"
    answer(served, headers=(*JSON, ("x-ratelimit-remaining-requests", "7"), ("x-weft-max-tokens", "9"), ("y", "z")))
    assert (await call).choices[0].message.text == "hi"
    told = dict(await call.initial_metadata())
    assert (told["x-ratelimit-remaining-requests"], told["x-weft-max-tokens"]) == ("7", "9")
    assert ("x-request-id", "r-1") in tuple(await call.trailing_metadata())
    assert "y" not in told


async def test_a_call_has_a_request_id_in_any_case(world: World) -> None:
    call = world.stub.Chat(CHAT)
    served = await world.served()
    assert len(served.request.header("x-request-id") or "") == 32
    assert served.request.timeout is None
    answer(served)
    await call


@pytest.mark.parametrize("sent", ["", " ", "a b", "x" * 129])
async def test_an_id_that_cannot_be_shown_is_replaced(world: World, sent: str) -> None:
    call = world.stub.Chat(CHAT, metadata=(("x-request-id", sent),))
    served = await world.served()
    (own,) = [value for name, value in served.request.headers if name == "x-request-id"]
    assert len(own) == 32
    answer(served)
    await call
    assert tuple(await call.trailing_metadata()) == (("x-request-id", own),)


async def test_what_is_wrong_is_refused_before_anything_is_sent(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.stub.Chat(chat_pb2.ChatRequest(extra_json="1"), timeout=SOON)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details(caught.value)["BadRequest"].field_violations
    assert violation.field == "extra_json"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in world.stub.StreamChat(chat_pb2.StreamChatRequest(chat={"extra_json": "1"}), timeout=SOON):
            pass
    assert details(caught.value)["BadRequest"].field_violations[0].field == "chat.extra_json"
    assert not world.answerer.calls


async def test_an_error_bears_the_calls_id(world: World) -> None:
    """Of whoever's making: one that is refused at once, one that the server refuses, one of a stream."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.stub.Chat(chat_pb2.ChatRequest(extra_json="1"), metadata=(("x-request-id", "r-1"),), timeout=SOON)
    assert ("x-request-id", "r-1") in tuple(caught.value.trailing_metadata() or ())
    calls: list[Callable[[], Any]] = [lambda: world.stub.Chat(CHAT), lambda: world.stub.StreamChat(STREAM).read()]
    for call in calls:
        world.answerer.arrived.clear()
        async with refused(world, call()) as (served, error):
            answer(served, b"{}", 400)
        assert ("x-request-id", served.request.header("x-request-id")) in tuple(error().trailing_metadata() or ())


@pytest.mark.parametrize("letter", ["x", "é", "☃", "\n", "\ud800"])
async def test_a_long_refusal_arrives(world: World, letter: str) -> None:
    """Clients and proxies take 8 KiB of headers, and refuse the whole status where there are more."""
    told = {"message": letter * 3000, "type": letter * 3000, "param": "n" + letter * 3000, "code": 400}
    options = (("grpc.max_metadata_size", 8192), ("grpc.absolute_max_metadata_size", 8192))
    async with grpc.aio.insecure_channel(world.address, options) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        async with refused(world, stub.Chat(CHAT, timeout=SOON)) as (served, error):
            answer(served, json.dumps({"error": told}).encode(), 400)
    assert error().code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error())["ErrorInfo"].metadata["http_status"] == "400"


async def test_a_refusal_of_the_server_is_a_status_with_all_that_it_says(world: World) -> None:
    body = b'{"error":{"message":"temperature is wrong","type":"BadRequestError","param":"temperature","code":400}}'
    async with refused(world, world.stub.Chat(CHAT, timeout=SOON)) as (served, error):
        answer(served, body, 400)
    assert (error().code(), error().details()) == (grpc.StatusCode.INVALID_ARGUMENT, "temperature is wrong")
    found = details(error())
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == ("REQUEST_REFUSED", "weft")
    assert found["ErrorInfo"].metadata["http_status"] == "400"
    assert found["ErrorInfo"].metadata["type"] == "BadRequestError"
    assert found["BadRequest"].field_violations[0].field == "sampling.temperature"


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (404, grpc.StatusCode.NOT_FOUND, "REQUEST_REFUSED"),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_REFUSED"),
        (500, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_BROKEN"),
    ],
)
async def test_refusals_of_streams(world: World, status: int, code: grpc.StatusCode, reason: str) -> None:
    call = world.stub.StreamChat(STREAM, timeout=SOON)
    async with refused(world, call.read()) as (served, error):
        answer(served, b'{"error":{"message":"no"}}', status, (*JSON, ("retry-after", "3")))
    assert (error().code(), error().details()) == (code, "no")
    assert details(error())["ErrorInfo"].reason == reason
    assert details(error())["RetryInfo"].retry_delay.seconds == 3


async def test_an_error_of_the_mesh_names_the_typed_field(world: World) -> None:
    async with refused(world, world.stub.Chat(CHAT, timeout=SOON)) as (served, error):
        served.receiver.fail(ServiceError(Reason.TOKENS_ABOVE_LIMIT, "too many", param="max_tokens"))
    assert details(error())["BadRequest"].field_violations[0].field == "sampling.max_tokens"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"new":"\xff"}', b'{"id":"\xff"}', b"[" * 100_000])
async def test_what_is_no_answer(world: World, body: bytes) -> None:
    async with refused(world, world.stub.Chat(CHAT, timeout=SOON)) as (served, error):
        answer(served, body)
    assert details(error())["ErrorInfo"].reason == "UPSTREAM_BROKEN"


# Streams


async def test_a_stream_in_pieces_as_they_come(world: World) -> None:
    call = world.stub.StreamChat(STREAM, timeout=SOON)
    served = await world.served()
    assert json.loads(served.request.body)["stream_options"] == {"include_usage": True}
    served.receiver.head(Head(200, EVENTS))
    served.data(b": weft waiting \xe2\x80\x94 Position 3\n\n")
    assert (await call.read()).progress == "Position 3"
    served.data(event("a") + event("b")[:9])
    first = await call.read()
    assert (first.start.id, [delta.content for delta in first.deltas]) == ("c-1", ["a"])
    served.data(event("b")[9:] + event("", "stop"))
    assert [delta.content for delta in (await call.read()).deltas] == ["b", ""]
    served.data(b"data: [DONE]\n\n")
    assert (await call.read()).end.choices[0].finish_reason == "stop"
    served.receiver.end()
    assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("how", ["ends", "fails", "says"])
async def test_a_stream_that_was_cut_has_no_end(world: World, how: str) -> None:
    call = world.stub.StreamChat(STREAM, timeout=SOON)
    served = await world.served()
    served.receiver.head(Head(200, EVENTS))
    served.data(event("a"))
    assert (await call.read()).deltas
    if how == "ends":
        served.receiver.end()
    elif how == "fails":
        served.receiver.fail(ServiceError(Reason.UPSTREAM_BROKEN))
    else:
        served.data(b'data: {"error":{"message":"died","code":500}}\n\n')
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert details(caught.value)["ErrorInfo"].reason == "UPSTREAM_BROKEN"


async def test_an_answer_that_is_no_stream(world: World) -> None:
    async with refused(world, world.stub.StreamChat(STREAM, timeout=SOON).read()) as (served, error):
        answer(served)
    assert details(error())["ErrorInfo"].reason == "UPSTREAM_BROKEN"


@pytest.mark.parametrize("streamed", [False, True])
async def test_leaving_cancels_the_call(world: World, streamed: bool) -> None:
    call: Any = world.stub.StreamChat(STREAM) if streamed else world.stub.Chat(CHAT)
    if streamed:
        waiting = asyncio.ensure_future(call.read())
    served = await world.served()
    served.receiver.head(Head(200, EVENTS))
    if streamed:
        served.data(event("a"))
        await waiting
    call.cancel()
    await until(lambda: served.cancelled)


async def test_a_slow_client_slows_the_server_and_loses_nothing(world: World) -> None:
    call = world.stub.StreamChat(STREAM)
    served = await world.served()
    served.receiver.head(Head(200, EVENTS))
    chunk = event("x" * 60_000)
    sent = idle = 0
    while idle < 50:
        if served.credit >= len(chunk):
            served.data(chunk)
            sent += 1
            idle = 0
        else:
            idle += 1
        await asyncio.sleep(0.002)
    assert served.credit < len(chunk), "it has no credit left"
    assert sent * len(chunk) < 8 * MIB, "gRPC's own window, of 4 MiB at most, and ours"
    read = 0
    while read < sent:
        read += len((await call.read()).deltas)
    await until(lambda: served.credit == WINDOW)
    call.cancel()


# Sizes


async def test_a_long_answer_is_refused_by_a_client_with_grpcs_own_limit(world: World) -> None:
    long = ANSWER.replace(b"hi", b"x" * 5 * MIB)
    async with grpc.aio.insecure_channel(world.address) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).Chat(CHAT, timeout=SOON)
        answer(await world.served(), long)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (caught.value.details() or "")
    world.answerer.arrived.clear()
    again = world.stub.Chat(CHAT, timeout=SOON)
    answer(await world.served(), long)
    assert len((await again).choices[0].message.text) == 5 * MIB


async def test_an_answer_that_no_message_holds(world: World) -> None:
    async with refused(world, world.stub.Chat(CHAT, timeout=SOON)) as (served, error):
        served.receiver.head(Head(200, JSON))
        served.data(bytes(65 * MIB))
    assert error().code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error())["ErrorInfo"].reason == "ANSWER_TOO_LARGE"
    assert served.cancelled


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_that_is_small_on_the_wire_alone(world: World, streamed: bool) -> None:
    """Two bytes each, as messages 150; whoever reaches the router can send it, as credentials are judged later."""
    async with grpc.aio.insecure_channel(world.address) as channel:
        bomb = b"\x12\x00" * MIB
        call: Any = channel.unary_unary(f"/{SERVICE}/Chat")(bomb, timeout=SOON)
        if streamed:
            bomb = b"\x0a\x80\x80\x80\x01" + bomb
            call = channel.unary_stream(f"/{SERVICE}/StreamChat")(bomb, timeout=SOON).read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert details(caught.value)["ErrorInfo"].reason == "BODY_TOO_LARGE"
    assert not world.answerer.calls


async def test_requests_that_are_too_large(world: World) -> None:
    strangers = world.stub.Embed(embeddings_pb2.EmbedRequest(inputs=[{"text": "x" * MIB}]), timeout=SOON)
    assert len((await world.served()).request.body) < 100, "of a stranger's request no JSON is made"
    strangers.cancel()
    world.answerer.calls.clear()
    large = embeddings_pb2.EmbedRequest(inputs=[{"text": "x" * 33 * MIB}])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.stub.Embed(large, timeout=SOON)
    assert details(caught.value)["ErrorInfo"].reason == "BODY_TOO_LARGE"
    huge = embeddings_pb2.EmbedRequest(inputs=[{"text": "x" * 65 * MIB}])
    options = (("grpc.max_send_message_length", -1),)
    async with grpc.aio.insecure_channel(world.address, options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inference_pb2_grpc.InferenceServiceStub(channel).Embed(huge, timeout=SOON)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not world.answerer.calls
