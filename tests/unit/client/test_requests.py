"""Requests from keyword arguments, and the headers of calls."""

import asyncio
import json

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import use_span
from weft.client import AsyncClient, Client, json_schema, tool, tool_result
from weft.client import requests as build
from weft.client.messages import to_message
from weft.inference.v1 import chat_pb2, completions_pb2, sampling_pb2

from tests.unit.client.server import Server


def test_a_chat_in_short() -> None:
    request = build.chat_request("m", "Hi", {"max_tokens": 4, "stop": "x", "extra": {"a": 1}, "cluster": "sophia"})
    assert request == chat_pb2.ChatRequest(
        model="m",
        messages=[chat_pb2.ChatMessage(role="user", text="Hi")],
        sampling=sampling_pb2.Sampling(max_tokens=4, stop=["x"]),
        extra_json='{"a":1}',
        cluster="sophia",
    )


def test_zero_is_said_and_absence_is_not() -> None:
    assert build.chat_request("m", "Hi", {"temperature": 0}).sampling.HasField("temperature")
    assert not build.chat_request("m", "Hi", {}).HasField("sampling")


def test_a_request_stands_alone() -> None:
    request = chat_pb2.ChatRequest(model="m")
    assert build.chat_request(request, (), {}) is request
    with pytest.raises(TypeError, match="not both"):
        build.chat_request(request, "Hi", {})
    with pytest.raises(TypeError, match="not both"):
        build.chat_request(request, (), {"max_tokens": 4})


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="max_token"):
        build.chat_request("m", "Hi", {"max_token": 4})  # type: ignore[typeddict-unknown-key]


def test_openai_messages() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}
    odd = {"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}
    message = to_message({"role": "user", "content": [{"type": "text", "text": "What?"}, image, odd], "name": "ada"})
    parts = message.parts.parts
    assert (parts[0].text, parts[1].image_url.detail, json.loads(parts[2].other_json)) == ("What?", "low", odd)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    message = to_message({"role": "assistant", "content": None, "tool_calls": [call], "audio": {"id": "x"}})
    assert message.tool_calls[0].function.arguments == '{"a": 1}'
    assert message.WhichOneof("content") is None
    assert message.extra_json == '{"audio":{"id":"x"}}'


def test_tools() -> None:
    weather = tool("weather", "Tells it.", {"type": "object", "properties": {"z": {}, "a": {}}})
    assert weather.function.parameters_json == '{"type":"object","properties":{"z":{},"a":{}}}'
    options: build.ChatOptions = {"tools": [weather], "tool_choice": "weather"}
    assert build.chat_request("m", "Hi", options).tool_choice.function == "weather"
    assert build.chat_request("m", "Hi", {"tool_choice": "required"}).tool_choice.mode == "required"
    result = tool_result(chat_pb2.ToolCall(id="c-1"), "sunny")
    assert (result.role, result.tool_call_id, result.text) == ("tool", "c-1", "sunny")
    schema = json_schema("city", '{"type": "object"}')
    assert schema.json_schema.schema_json == '{"type": "object"}'


def test_texts_and_tokens() -> None:
    request = build.complete_request("m", ["Once", [1, 2]], {"max_tokens": 2})
    assert [prompt.WhichOneof("prompt") for prompt in request.prompts] == ["text", "tokens"]
    assert build.complete_request("m", "Once", {}).prompts == [completions_pb2.Prompt(text="Once")]
    assert list(build.embed_request("m", "warp", {}).inputs) == [completions_pb2.Prompt(text="warp")]
    assert list(build.score_request("m", "a", ["b", "c"], {}).text_2) == ["b", "c"]
    assert build.tokenize_request("m", "text", {}).prompt == "text"
    assert build.tokenize_request("m", ["text"], {}).chat.messages[0].text == "text"
    assert build.rerank_request("m", "q", ["d"], {"top_n": 1}).top_n == 1
    assert list(build.detokenize_request("m", [1], {}).tokens) == [1]
    assert build.infer_request("responses", {"input": "ä"}, "").body_json == '{"input":"ä"}'


async def test_models_of_all_pages(server: Server) -> None:
    async with AsyncClient(server.address) as client:
        assert [model.id async for model in client.models()] == [f"m-{number}" for number in range(5)]
    assert len(server.servicer.seen) == 3

    def ask() -> list[str]:
        with Client(server.address) as plain:
            return [model.id for model in plain.models()]

    assert len(await asyncio.to_thread(ask)) == 5


async def test_raw_answers_come_as_they_are(server: Server) -> None:
    """Also one whose status is an error."""
    async with AsyncClient(server.address) as client:
        answer = await client.infer("teapots", {"a": "ä"}).result()
    assert (answer.status, answer.headers, answer.json()) == (418, (("content-type", "application/json"),), {"a": "ä"})


async def test_the_callers_span_is_the_parent(server: Server) -> None:
    async with AsyncClient(server.address) as client:
        with use_span(TracerProvider().get_tracer("test").start_span("theirs")) as span:
            await client.chat("m", "Hi")
            given = "00-" + "a" * 32 + "-" + "b" * 16 + "-00"
            await client.chat("m", "Hi", metadata=[("traceparent", given)])
        await client.chat("m", "Hi")
    place = span.get_span_context()
    seen = [headers.get("traceparent") for _, headers in server.servicer.seen]
    assert seen == [f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags:02x}", given, None]
