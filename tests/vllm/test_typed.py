"""A typed call gets the answer that HTTP gets, from the real vLLM: the whole table of fidelity once more, by gRPC."""

from __future__ import annotations

import base64
import itertools
import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from weft.inference.v1 import (
    chat_pb2,
    completions_pb2,
    embeddings_pb2,
    inference_pb2,
    inference_pb2_grpc,
    ranking_pb2,
    tokens_pb2,
)

from services.core.errors import ServiceError
from services.rpc.channel import bearer, dial
from services.rpc.status import STATUS_METADATA
from services.typed.messages import answer_json, request_of
from tests.testing.typed import plain, told
from tests.vllm.compare import ID, TIME
from tests.vllm.conftest import Servers
from tests.vllm.exchange import Answer
from tests.vllm.mesh import Mesh
from tests.vllm.rows import chat, completions, errors, pooling
from tests.vllm.rows.row import CHAT_MODEL, EMBED_MODEL, JSON, Row, encode
from tests.vllm.test_fidelity import ask_directly

TIMEOUT = 120
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RPCS: dict[str, tuple[str, Any]] = {
    CHAT: ("Chat", chat_pb2.ChatRequest),
    COMPLETIONS: ("Complete", completions_pb2.CompleteRequest),
    "/v1/embeddings": ("Embed", embeddings_pb2.EmbedRequest),
    "/v1/rerank": ("Rerank", ranking_pb2.RerankRequest),
    "/v1/score": ("Score", ranking_pb2.ScoreRequest),
    "/tokenize": ("Tokenize", tokens_pb2.TokenizeRequest),
    "/detokenize": ("Detokenize", tokens_pb2.DetokenizeRequest),
}
OTHERWISE = {
    "embeddings, raw bytes": "typed embeddings are floats",
    "embeddings, wrong format": "typed embeddings are floats",
    "detokenize, wrong type": "its tokens are numbers by their type",
}
"""Rows that mean something else, or nothing, as a typed call."""


def body_of(row: Row) -> dict[str, Any] | None:
    """The JSON object of a row that can be a typed call."""
    try:
        body = json.loads(row.body or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("stream", False) not in (True, False):
        return None
    if not body.get("stream") and "stream_options" in body:
        return None
    return body


def typed(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        if row.path not in RPCS or row.method != "POST" or row.name in OTHERWISE or body_of(row) is None:
            continue
        if row.headers != JSON:
            continue  # about what a message has not: a content type
        try:
            request_of(RPCS[row.path][1], row.body or b"")
        except ServiceError:
            continue  # no JSON that a message could come from: a key that stands twice
        yield row


TABLE = list(typed(itertools.chain(chat.rows(), completions.rows(), pooling.rows(), errors.rows())))


def anonymous(text: str) -> str:
    return TIME.sub(r'"\1":0', ID.sub(r'"\1"', text))


def expected(answer: Answer) -> Any:
    value = told(plain(anonymous(answer.body.decode())))
    for one in value.get("data", ()):
        if isinstance(one.get("embedding"), str):
            data = base64.b64decode(one["embedding"])
            one["embedding"] = told(plain(json.dumps(struct.unpack(f"<{len(data) // 4}f", data))))
    return value


def refusal(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    packed = dict(error.trailing_metadata() or ())[STATUS_METADATA]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(packed).details[0].Unpack(info)
    return info


COUNTED = re.compile(r"<dict of \d+ items>")
"""vLLM counts the members of a body that it refuses; a typed call may have some more."""


def refused_in_stream(answer: Answer) -> Answer:
    """An answer whose stream is nothing but a refusal, as the refusal."""
    data = answer.body.partition(b"data: ")[2].partition(b"\n\n")[0]
    if not data.startswith(b'{"error"'):
        return answer
    return Answer(json.loads(data)["error"]["code"], answer.headers, data)


CODES = {400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND}


def assert_refused(direct: Answer, error: grpc.aio.AioRpcError, *, streamed: bool) -> None:
    assert error.code() is CODES[direct.status], error.details()
    told_by_http = json.loads(direct.body)["error"]
    info = refusal(error)
    if info.reason == "REQUEST_REFUSED":
        assert info.metadata["http_status"] == str(direct.status)
        assert info.metadata["type"] == told_by_http["type"]
        assert info.metadata.get("param") == told_by_http["param"]
        said, expected_words = (COUNTED.sub("", text) for text in (error.details() or "", told_by_http["message"]))
        assert streamed or said[:1000] == expected_words[:1000]  # as much as headers surely hold


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
async def test_a_typed_call_is_answered_as_by_http(servers: Servers, mesh: Mesh, row: Row) -> None:
    body = body_of(row)
    assert body is not None
    streamed = body.pop("stream", False)
    options = body.pop("stream_options", {}) or {}
    rpc, kind = RPCS[row.path]
    request = request_of(kind, encode(body))
    if streamed:
        sent = {**body, "stream": True, "stream_options": {**options, "include_usage": True}}
        if not isinstance(options, dict):
            return
        row = Row(row.name, row.path, encode(sent), model=row.model)
    direct = refused_in_stream(ask_directly(servers[row.model].url, row))
    async with dial(mesh.router) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        how = {"metadata": bearer(mesh.key), "timeout": TIMEOUT}
        if direct.status >= 400:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (stream(stub, request, how) if streamed else getattr(stub, rpc)(request, **how))
            assert_refused(direct, caught.value, streamed=streamed)
            return
        if streamed:
            pieces = await stream(stub, request, how)
        else:
            answer = await getattr(stub, rpc)(request, **how)
    if streamed:
        assert joined_pieces(pieces) == joined_events(direct.body.decode())
    else:
        assert told(plain(anonymous(answer_json(answer).decode()))) == expected(direct)


# Streams, each put together by its own rules: one of events, one of pieces


async def stream(stub: Any, request: Any, how: Any) -> list[Any]:
    if isinstance(request, chat_pb2.ChatRequest):
        call = stub.StreamChat(chat_pb2.StreamChatRequest(chat=request), **how)
    else:
        call = stub.StreamComplete(completions_pb2.StreamCompleteRequest(complete=request), **how)
    return [piece async for piece in call]


def empty() -> dict[str, Any]:
    return {"text": "", "reasoning": "", "role": "", "calls": {}, "tokens": [], "finish": "", "stop": None}


def joined_events(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {"choices": {}, "usage": None}
    for event in text.split("\n\n"):
        if not event.startswith("data: {"):
            continue
        data = json.loads(event.removeprefix("data: "))
        found["usage"] = told(data["usage"]) if data.get("usage") else found["usage"]
        for one in data["choices"]:
            choice = found["choices"].setdefault(one["index"], empty())
            delta = one.get("delta", {"content": one.get("text")})
            choice["text"] += delta.get("content") or ""
            choice["reasoning"] += delta.get("reasoning") or ""
            choice["role"] += delta.get("role") or ""
            for call in delta.get("tool_calls") or ():
                known = choice["calls"].setdefault(call["index"], ["", ""])
                known[0] += call.get("function", {}).get("name") or ""
                known[1] += call.get("function", {}).get("arguments") or ""
            logprobs = one.get("logprobs") or {}
            choice["tokens"] += [
                (each["token"], each["logprob"], each["bytes"]) for each in logprobs.get("content") or ()
            ]
            choice["tokens"] += logprobs.get("tokens") or ()
            choice["finish"] = one.get("finish_reason") or choice["finish"]
            choice["stop"] = choice["stop"] if one.get("stop_reason") is None else one["stop_reason"]
    return found


def joined_pieces(pieces: list[Any]) -> dict[str, Any]:
    end = pieces[-1].end
    assert pieces[-1].HasField("end")
    assert re.match("(chat)?cmpl-", next(piece.start.id for piece in pieces if piece.HasField("start")))
    found: dict[str, Any] = {"choices": {}, "usage": told(json.loads(answer_json(end.usage)))}
    for delta in (delta for piece in pieces for delta in piece.deltas):
        choice = found["choices"].setdefault(delta.index, empty())
        if isinstance(delta, chat_pb2.ChatDelta):
            choice["text"] += delta.content
            choice["reasoning"] += delta.reasoning
            choice["role"] += delta.role
            for call in delta.tool_calls:
                known = choice["calls"].setdefault(call.index, ["", ""])
                known[0] += call.name
                known[1] += call.arguments
            choice["tokens"] += [(one.token, one.logprob, list(one.bytes)) for one in delta.logprobs.content]
        else:
            choice["text"] += delta.text
            choice["tokens"] += delta.logprobs.tokens
    for one in end.choices:
        choice = found["choices"].setdefault(one.index, empty())
        choice["finish"] = one.finish_reason
        choice["stop"] = json.loads(one.stop_reason_json) if one.stop_reason_json else None
    return found


# What the table does not say


async def test_the_order_of_a_schema_is_that_of_the_answer(mesh: Mesh) -> None:
    request = chat_pb2.ChatRequest(
        model=CHAT_MODEL,
        messages=[{"role": "user", "text": "Say something."}],
        sampling={"max_tokens": 64, "temperature": 0},
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema_json": json.dumps(chat.SCHEMA)}},
    )
    async with dial(mesh.router) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        answer = await stub.Chat(request, metadata=bearer(mesh.key), timeout=TIMEOUT)
    assert list(json.loads(answer.choices[0].message.text)) == ["zeta", "alpha"]


async def test_models_with_what_vllm_says_of_them(mesh: Mesh) -> None:
    async with dial(mesh.router) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        listed = await stub.ListModels(inference_pb2.ListModelsRequest(), metadata=bearer(mesh.key), timeout=TIMEOUT)
        model = (
            await stub.GetModel(
                inference_pb2.GetModelRequest(id=CHAT_MODEL), metadata=bearer(mesh.key), timeout=TIMEOUT
            )
        ).model
    assert [one.id for one in listed.models] == [CHAT_MODEL, EMBED_MODEL]
    assert (model.owned_by, model.max_model_len) == ("vllm", 8192)
    assert model.created > 1_700_000_000
