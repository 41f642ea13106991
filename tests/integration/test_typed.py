"""Typed calls through a mesh: the same answers as by HTTP, errors as statuses, streams with an end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from weft.inference.v1 import (
    chat_pb2,
    completions_pb2,
    embeddings_pb2,
    inference_pb2,
    ranking_pb2,
    tokens_pb2,
)

from services.rpc.channel import bearer, dial
from services.rpc.server import check_health
from services.typed.messages import answer_of, request_json
from tests.testing.mesh import Mesh
from tests.testing.processes import SOON

MODEL = "sim-model"
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters_json": '{"type":"object","properties":{"z":{"type":"integer"}}}'},
}


def chat(text: str = "Hello", **fields: Any) -> chat_pb2.ChatRequest:
    fields.setdefault("sampling", {"max_tokens": 8})
    return chat_pb2.ChatRequest(model=MODEL, messages=[{"role": "user", "text": text}], **fields)


CASES: list[tuple[str, str, Any, Any]] = [
    ("Chat", "/v1/chat/completions", chat(), chat_pb2.ChatResponse),
    ("Chat", "/v1/chat/completions", chat(sampling={"n": 2, "max_tokens": 4}), chat_pb2.ChatResponse),
    (
        "Chat",
        "/v1/chat/completions",
        chat(tools=[TOOL], tool_choice={"function": "look"}, sampling={"max_tokens": 64}),
        chat_pb2.ChatResponse,
    ),
    (
        "Complete",
        "/v1/completions",
        completions_pb2.CompleteRequest(model=MODEL, prompts=[{"text": "a b"}], sampling={"max_tokens": 4}),
        completions_pb2.CompleteResponse,
    ),
    (
        "Embed",
        "/v1/embeddings",
        embeddings_pb2.EmbedRequest(model=MODEL, inputs=[{"text": "a"}, {"text": "b"}]),
        embeddings_pb2.EmbedResponse,
    ),
    (
        "Rerank",
        "/v1/rerank",
        ranking_pb2.RerankRequest(model=MODEL, query="a", documents=["b", "a c"]),
        ranking_pb2.RerankResponse,
    ),
    (
        "Score",
        "/v1/score",
        ranking_pb2.ScoreRequest(model=MODEL, text_1=["a"], text_2=["b", "c"]),
        ranking_pb2.ScoreResponse,
    ),
    (
        "Tokenize",
        "/tokenize",
        tokens_pb2.TokenizeRequest(model=MODEL, prompt="a b", return_token_strs=True),
        tokens_pb2.TokenizeResponse,
    ),
    ("Detokenize", "/detokenize", tokens_pb2.DetokenizeRequest(model=MODEL), tokens_pb2.DetokenizeResponse),
]


async def post(mesh: Mesh, path: str, body: bytes) -> bytes:
    headers = {"authorization": f"Bearer {mesh.key}", "content-type": "application/json", "x-request-id": "same"}
    async with aiohttp.ClientSession(mesh.url) as client, client.post(path, data=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


def without_time(answer: Any) -> Any:
    """Answers to one request, made one after the other, may bear different seconds."""
    if "created" in answer.DESCRIPTOR.fields_by_name:
        answer.ClearField("created")
    for usage in [answer.usage] if "usage" in answer.DESCRIPTOR.fields_by_name else []:
        usage.ClearField("prompt_tokens_details")  # The second one is found in the cache.
    return answer


@pytest.mark.parametrize(("rpc", "path", "request_", "kind"), CASES)
async def test_the_same_answer_as_by_http(mesh: Mesh, rpc: str, path: str, request_: Any, kind: Any) -> None:
    async with mesh.stubs() as stubs:
        call = {**stubs.call, "metadata": (*stubs.call["metadata"], ("x-request-id", "same"))}
        typed = await getattr(stubs.inference, rpc)(request_, **call)
    body = request_json(request_)
    if rpc == "Detokenize":
        body = json.dumps({"model": MODEL, "tokens": []}).encode()
    assert without_time(typed) == without_time(answer_of(kind, await post(mesh, path, body)))


# Streams


async def test_a_stream_says_what_the_whole_says(mesh: Mesh) -> None:
    request = chat("A story", sampling={"max_tokens": 20, "n": 2})
    async with mesh.stubs() as stubs:
        answer = await stubs.inference.Chat(request, **stubs.call)
        call = stubs.inference.StreamChat(chat_pb2.StreamChatRequest(chat=request), **stubs.call)
        pieces = [piece async for piece in call]
    texts = {0: "", 1: ""}
    for delta in (delta for piece in pieces for delta in piece.deltas):
        texts[delta.index] += delta.content
    assert texts == {choice.index: choice.message.text for choice in answer.choices}
    end = pieces[-1].end
    assert [(one.index, one.finish_reason) for one in end.choices] == [(0, "length"), (1, "length")]
    assert end.usage.completion_tokens == answer.usage.completion_tokens == 40


async def test_a_completion_as_it_comes(mesh: Mesh) -> None:
    request = completions_pb2.CompleteRequest(model=MODEL, prompts=[{"text": "a"}], sampling={"max_tokens": 9})
    async with mesh.stubs() as stubs:
        answer = await stubs.inference.Complete(request, **stubs.call)
        call = stubs.inference.StreamComplete(completions_pb2.StreamCompleteRequest(complete=request), **stubs.call)
        pieces = [piece async for piece in call]
    assert "".join(delta.text for piece in pieces for delta in piece.deltas) == answer.choices[0].text
    assert pieces[-1].end.usage.total_tokens == answer.usage.total_tokens


# Errors


def told(error: grpc.aio.AioRpcError) -> tuple[str, list[str]]:
    """The reason of a rich status, and the paths of the fields that it blames."""
    packed = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info, wrong = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    details = status_pb2.Status.FromString(packed).details
    assert details[0].Unpack(info)
    if len(details) > 1:
        assert details[1].Unpack(wrong)
    return info.reason, [one.field for one in wrong.field_violations]


@pytest.mark.parametrize(
    ("request_", "code", "reason", "fields"),
    [
        (chat(sampling={"max_tokens": -1}), "INVALID_ARGUMENT", "REQUEST_REFUSED", ["sampling.max_tokens"]),
        (chat_pb2.ChatRequest(model=MODEL), "INVALID_ARGUMENT", "REQUEST_REFUSED", ["messages"]),
        (chat_pb2.ChatRequest(model="none"), "NOT_FOUND", "MODEL_NOT_FOUND", ["model"]),
        (chat(cluster="none"), "NOT_FOUND", "MODEL_NOT_FOUND", ["model"]),
        (chat(extra_json="{"), "INVALID_ARGUMENT", "ARGUMENT_INVALID", ["extra_json"]),
    ],
)
async def test_errors_name_the_field(
    mesh: Mesh, request_: chat_pb2.ChatRequest, code: str, reason: str, fields: list[str]
) -> None:
    async with mesh.stubs() as stubs:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.inference.Chat(request_, **stubs.call)
        assert (caught.value.code().name, *told(caught.value)) == (code, reason, fields)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.inference.StreamChat(chat_pb2.StreamChatRequest(chat=request_), **stubs.call).read()
        assert told(caught.value) == (reason, [f"chat.{field}" for field in fields])


async def test_who_shows_nothing_is_refused(mesh: Mesh) -> None:
    async with mesh.stubs() as stubs:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.inference.Chat(chat(), timeout=SOON)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert told(caught.value)[0] == "CREDENTIAL_MISSING"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.inference.Chat(chat("a" * 2**20), metadata=bearer("nonsense"), timeout=SOON)
        assert told(caught.value)[0] == "CREDENTIAL_INVALID"


# Models, and stock tools


async def test_one_model(mesh: Mesh) -> None:
    async with mesh.stubs() as stubs:
        found = await stubs.inference.GetModel(inference_pb2.GetModelRequest(id=MODEL), **stubs.call)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.inference.GetModel(inference_pb2.GetModelRequest(id="none"), **stubs.call)
    model = found.model
    assert (model.id, model.owned_by) == (MODEL, "vllm")
    assert model.created > 1_700_000_000
    assert model.max_model_len == json.loads(model.card_json)["max_model_len"] > 0
    assert told(caught.value) == ("MODEL_NOT_FOUND", ["id"])


def by_reflection(address: str, key: str) -> Any:
    """A chat by somebody who has no protos, and asks the server for them."""
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service = pool.FindServiceByName("weft.inference.v1.InferenceService")
        method = service.FindMethodByName("Chat")
        request = GetMessageClass(method.input_type)()
        request.model = MODEL
        request.messages.add(role="user", text="Hello")
        request.sampling.max_tokens = 3
        call = channel.unary_unary(
            "/weft.inference.v1.InferenceService/Chat",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return call(request, metadata=bearer(key), timeout=SOON)


async def test_a_client_without_protos(mesh: Mesh) -> None:
    answer = await asyncio.to_thread(by_reflection, mesh.address("router"), mesh.key)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


async def test_health_by_the_services_name(mesh: Mesh) -> None:
    async with dial(mesh.address("router")) as channel:
        assert await check_health(channel, "weft.inference.v1.InferenceService", timeout=SOON)
