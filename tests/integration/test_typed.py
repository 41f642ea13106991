"""Typed calls through a mesh: the same answers as by HTTP, errors as statuses, streams with an end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
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

from services.rpc.channel import bearer
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
