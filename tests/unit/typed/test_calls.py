"""What a typed request becomes as a call, and how its errors name the field that is wrong."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from typing import Any

import pytest
from google.protobuf.message import Message
from weft.inference.v1 import chat_pb2, completions_pb2, embeddings_pb2, tokens_pb2

from services.core.errors import GrpcCode, Reason, ServiceError
from services.core.inference import Head
from services.typed.calls import TypedCall
from services.typed.messages import answer_json, answer_of, request_json, request_of
from services.typed.paths import field_path
from services.typed.refusals import refusal

USER = {"role": "user", "text": "a"}


def chat(**fields: Any) -> chat_pb2.ChatRequest:
    return chat_pb2.ChatRequest(**fields)


def test_a_chat_with_all_that_there_is() -> None:
    schema = '{"type": "object", "properties": {"zebra": {"const": 9007199254740993}, "ape": {}}}'
    request = chat(
        model="m",
        messages=[
            {"role": "system", "text": "Be brief."},
            {
                "role": "user",
                "name": "ada",
                "parts": {
                    "parts": [
                        {"text": "é", "extra_json": '{"uuid": "1"}'},
                        {"image_url": {"inline": {"media_type": "image/png", "data": b"\x00\xff"}, "detail": "low"}},
                        {"input_audio": {"data": b"\x01", "format": "wav"}},
                        {"other_json": '{"type":"file","file":{"id":1}}'},
                    ]
                },
            },
            {
                "role": "assistant",
                "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{"}}],
            },
            {"role": "tool", "tool_call_id": "t", "text": ""},
        ],
        sampling={"max_tokens": 5, "seed": 9007199254740993, "stop": ["a"], "logit_bias": {"7": -100}},
        tools=[{"type": "function", "function": {"name": "f", "parameters_json": schema}}],
        tool_choice={"function": "f"},
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema_json": schema, "strict": True}},
        chat_template_kwargs_json='{"enable_thinking":false}',
        extra_json='{"priority": 1e400, "new": "\\ud800"}',
        cluster="sophia",
    )
    call = TypedCall(request)
    body = call.body.decode()
    assert (call.operation, call.cluster) == ("/v1/chat/completions", "sophia")
    assert body.count(schema) == 2, "the order of its keys is that of the answer's"
    assert '"priority":1e400' in body
    assert '"new":"\\ud800"' in body
    sent = json.loads(body)
    assert "cluster" not in sent
    assert sent["messages"][1]["content"] == [
        {"type": "text", "text": "é", "uuid": "1"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AP8=", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AQ==", "format": "wav"}},
        {"type": "file", "file": {"id": 1}},
    ]
    assert sent["messages"][3] == {"role": "tool", "tool_call_id": "t", "content": ""}
    assert sent["seed"] == 9007199254740993
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_stream_always_asks_for_its_usage() -> None:
    plain = TypedCall(chat_pb2.StreamChatRequest(chat=chat(model="m", messages=[USER])))
    assert json.loads(plain.body)["stream_options"] == {"include_usage": True}
    assert json.loads(plain.body)["stream"] is True
    extra = '{"stream_options": {"include_usage": false, "continuous_usage_stats": true}}'
    more = TypedCall(chat_pb2.StreamChatRequest(chat=chat(extra_json=extra)))
    assert json.loads(more.body)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize(
    ("request_", "path", "why"),
    [
        (chat(extra_json="[]"), "extra_json", "is not a JSON object"),
        (chat(extra_json='{"a":1'), "extra_json", "is not JSON"),
        (chat(extra_json='{"a":1}{'), "extra_json", "is not JSON"),
        (chat(extra_json='{"a":NaN}'), "extra_json", "NaN"),
        (chat(extra_json='{"a":1,"a":1}'), "extra_json", "twice"),
        (chat(extra_json='{"\\ud800":1}'), "extra_json", "surrogate"),
        (chat(extra_json='{"a":' + "[" * 100_000), "extra_json", "too deep"),
        (chat(extra_json='{"stream":true}'), "extra_json", "'stream'"),
        (chat(model="m", extra_json='{"model":"x"}'), "extra_json", "'model'"),
        (chat(sampling={"n": 1}, extra_json='{"n":2}'), "extra_json", "'n'"),
        (chat(chat_template_kwargs_json="{"), "chat_template_kwargs_json", "is not JSON"),
        (chat(sampling={"temperature": float("nan")}), "sampling.temperature", "no number"),
        (chat(sampling={"logit_bias": {"1": float("inf")}}), "sampling.logit_bias['1']", "no number"),
        (chat(tool_choice={}), "tool_choice", "chooses nothing"),
        (chat(messages=[USER, {"role": "user", "parts": {"parts": [{}]}}]), "messages[1].parts.parts[0]", "nothing"),
        (
            chat(messages=[{"role": "user", "parts": {"parts": [{"image_url": {"inline": {"data": b"a"}}}]}}]),
            "messages[0].parts.parts[0].image_url.inline.media_type",
            "missing",
        ),
        (
            chat_pb2.StreamChatRequest(
                chat=chat(messages=[USER, USER, {"role": "assistant", "tool_calls": [{"extra_json": "1"}]}])
            ),
            "chat.messages[2].tool_calls[0].extra_json",
            "is not a JSON object",
        ),
        (
            completions_pb2.StreamCompleteRequest(complete={"extra_json": '{"stream_options":1}'}),
            "complete.extra_json.stream_options",
            "is not a JSON object",
        ),
        (completions_pb2.CompleteRequest(prompts=[{"text": "a"}, {"tokens": {"ids": [1]}}]), "prompts[1]", "kind"),
        (completions_pb2.CompleteRequest(prompts=[{}]), "prompts[0]", "says nothing"),
        (embeddings_pb2.EmbedRequest(extra_json='{"encoding_format":"bytes"}'), "extra_json.encoding_format", "Infer"),
        (embeddings_pb2.EmbedRequest(extra_json='{"embed_dtype":"float16"}'), "extra_json.embed_dtype", "Infer"),
    ],
)
def test_what_is_wrong_is_named_at_once(request_: Message, path: str, why: str) -> None:
    with pytest.raises(ServiceError) as caught:
        TypedCall(request_)
    assert caught.value.reason is Reason.ARGUMENT_INVALID
    assert caught.value.param == path
    assert caught.value.message.startswith(f"'{path}' ")
    assert why in caught.value.message


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"a":1,"a":2}', b"\xff", b'{"a":NaN}', b""])
def test_what_is_no_request(body: bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        request_of(chat_pb2.ChatRequest, body)
    assert caught.value.reason is Reason.BODY_NOT_JSON


def test_what_has_no_field_stays_as_it_is() -> None:
    body = b'{"stop": "a", "seed": 1e400, "model": null, "new": {"a":1,"a":2}, "messages": [{"role": 1}]}'
    request = request_of(chat_pb2.ChatRequest, body)
    assert not request.messages[0].role
    assert request.messages[0].extra_json == '{"role":1}'
    assert request.extra_json == '{"stop":"a","seed":1e400,"model":null,"new":{"a":1,"a":2}}'
    assert b'"new":{"a":1,"a":2}' in request_json(request)


# Embeddings


def test_vectors_are_the_same_in_base64_and_in_digits() -> None:
    values = struct.unpack("<3f", struct.pack("<3f", 0.1, -0.0, 3e38))
    coded = b64encode(struct.pack("<3f", *values)).decode()
    answers = [
        answer_of(embeddings_pb2.EmbedResponse, json.dumps({"data": [{"index": 0, "embedding": one}]}).encode())
        for one in (coded, list(values))
    ]
    assert answers[0] == answers[1]
    assert list(answers[0].embeddings[0].values) == list(values)
    assert json.loads(answer_json(answers[0]))["data"][0]["embedding"] == list(values)


@pytest.mark.parametrize("vector", ['"AAA="', '"?"', "[1e39]", '["a"]', "null"])
def test_what_is_no_vector_stays_as_it_is(vector: str) -> None:
    body = f'{{"data":[{{"index":0,"embedding":{vector}}}]}}'
    answer = answer_of(embeddings_pb2.EmbedResponse, body.encode())
    assert vector in answer.embeddings[0].extra_json or vector == "null"


def test_embeddings_are_asked_for_in_bits() -> None:
    assert b'"encoding_format":"base64"' in TypedCall(embeddings_pb2.EmbedRequest(inputs=[{"text": "a"}])).body
    digits = embeddings_pb2.EmbedRequest(extra_json='{"encoding_format":"float"}')
    assert json.loads(TypedCall(digits).body)["encoding_format"] == "float"


def test_no_tokens_are_tokens() -> None:
    assert json.loads(TypedCall(tokens_pb2.DetokenizeRequest(model="m")).body) == {"model": "m", "tokens": []}


# Errors


@pytest.mark.parametrize(
    ("param", "path"),
    [
        ("temperature", "sampling.temperature"),
        ("body.messages.0.content", "messages[0].content"),
        ("body.messages", "messages"),
        ("messages.1.tool_calls.0.function.name", "messages[1].tool_calls[0].function.name"),
        ("model", "model"),
        ("body.model", "model"),
        ("priority", "extra_json"),
        ("tools.0.function.parameters.type", "tools[0].function.parameters_json"),
        ("body", ""),
        ("body.17", ""),
    ],
)
def test_parameters_of_the_json_as_fields(param: str, path: str) -> None:
    assert field_path(chat_pb2.ChatRequest.DESCRIPTOR, param) == path


def test_a_stream_blames_the_field_within() -> None:
    call = TypedCall(chat_pb2.StreamChatRequest(chat=chat(model="m")))
    assert call.blame(ServiceError(Reason.FIELD_INVALID, param="max_tokens")).param == "chat.sampling.max_tokens"


REFUSED = b'{"error":{"message":"n must be at least 1.","type":"BadRequestError","param":"n","code":400}}'


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        (400, Reason.REQUEST_REFUSED, GrpcCode.INVALID_ARGUMENT),
        (401, Reason.REQUEST_REFUSED, GrpcCode.PERMISSION_DENIED),
        (404, Reason.REQUEST_REFUSED, GrpcCode.NOT_FOUND),
        (422, Reason.REQUEST_REFUSED, GrpcCode.INVALID_ARGUMENT),
        (429, Reason.REQUEST_REFUSED, GrpcCode.RESOURCE_EXHAUSTED),
        (500, Reason.UPSTREAM_BROKEN, GrpcCode.UNAVAILABLE),
        (501, Reason.REQUEST_REFUSED, GrpcCode.UNIMPLEMENTED),
    ],
)
def test_refusals_by_their_status(status: int, reason: Reason, code: GrpcCode) -> None:
    error = refusal(Head(status, ()), REFUSED)
    assert (error.reason, error.grpc, error.message) == (reason, code, "n must be at least 1.")
    told = {"http_status": str(status), "type": "BadRequestError", "param": "n", "code": "400"}
    assert dict(error.info) == told
    assert error.param == "n"
    assert (error.retry_after is not None) == (status == 429)


def test_refusals_in_other_words() -> None:
    assert refusal(Head(404, ()), b'{"detail":"Not Found"}').message == "Not Found"
    assert refusal(Head(401, ()), b'{"error":"Unauthorized"}').message == "Unauthorized"
    assert refusal(Head(502, ()), b"bad gateway").message == "bad gateway"
    assert refusal(Head(500, ()), b"").message == "The model server answered with status 500."
    assert refusal(Head(429, (("retry-after", "7"),)), b"{}").retry_after == 7
