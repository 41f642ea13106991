"""OpenAI's responses and Anthropic's messages."""

from collections.abc import Iterator
from typing import Any

from tests.vllm.rows.row import CHAT_MODEL, Row, encode, unstreamed_and_streamed

RESPONSES: dict[str, Any] = {"model": CHAT_MODEL, "input": "Hello", "temperature": 0, "max_output_tokens": 12}
MESSAGES: dict[str, Any] = {
    "model": CHAT_MODEL,
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 12,
}
CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}
TURNS = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": [{"type": "text", "text": "ç 🙂"}]},
]

ASKED_OF_RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "instructions": {"instructions": "Be brief."},
    "turns": {"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    "tools": {
        "tools": [{"type": "function", "name": "weather", "parameters": CITY}],
        "tool_choice": "required",
        "max_output_tokens": 80,
    },
    "json_schema": {
        "text": {"format": {"type": "json_schema", "name": "s", "schema": CITY, "strict": True}},
        "max_output_tokens": 40,
    },
    "logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    "metadata and unknown fields": {"metadata": {"a": "b"}, "x_new_field": 1},
    "sampling": {"temperature": 0.7, "top_p": 0.9, "seed": 4, "top_k": 5},
}
ASKED_OF_MESSAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "system": {"system": "Be brief."},
    "turns": {"messages": TURNS},
    "tools": {
        "tools": [{"name": "weather", "description": "d", "input_schema": CITY}],
        "tool_choice": {"type": "any"},
        "max_tokens": 80,
    },
    "stop sequences": {"stop_sequences": ["a"], "max_tokens": 60},
    "sampling and unknown fields": {"top_k": 3, "top_p": 0.9, "x_new_field": {"b": 1, "a": 2}},
}


def rows() -> Iterator[Row]:
    for name, fields in ASKED_OF_RESPONSES.items():
        yield from unstreamed_and_streamed(f"responses, {name}", "/v1/responses", {**RESPONSES, **fields})
    for name, fields in ASKED_OF_MESSAGES.items():
        yield from unstreamed_and_streamed(f"messages, {name}", "/v1/messages", {**MESSAGES, **fields})
    counted = {"model": CHAT_MODEL, "messages": TURNS, "system": "Be brief."}
    yield Row("count_tokens", "/v1/messages/count_tokens", encode(counted))
