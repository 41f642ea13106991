"""Chat completions: what a client may ask for, streamed and not."""

from collections.abc import Iterator
from typing import Any

from tests.vllm.rows.row import CHAT_MODEL, JSON, Row, encode, unstreamed_and_streamed

PATH = "/v1/chat/completions"
BASE: dict[str, Any] = {
    "model": CHAT_MODEL,
    "messages": [{"role": "user", "content": "Name a colour."}],
    "temperature": 0,
    "max_tokens": 12,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        # Else vLLM does not hold the arguments to the schema.
        "strict": True,
        # The order of keys, here not the alphabet's, is part of the prompt and of the grammar.
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["C", "F"]}, "city": {"enum": ["Oslo", "Rome"]}},
            "required": ["unit", "city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC"]}}, "required": ["zone"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"zeta": {"enum": ["a", "b"]}, "alpha": {"type": "boolean"}},
    "required": ["zeta", "alpha"],
    "additionalProperties": False,
}
CALLED = [
    {"role": "user", "content": "Is it cold in Oslo?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "-3 C"},
]

# At temperature 0 a model of random weights, where the grammar lets it, writes line breaks to its limit.
LIVELY = {"temperature": 1, "seed": 5, "max_tokens": 300}

ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "history": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Two."},
            {"role": "user", "content": "Three?"},
        ]
    },
    "content parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    "developer role and name": {"messages": [{"role": "developer", "content": "a", "name": "b"}]},
    "tools, auto": {"tools": [WEATHER, CLOCK], "tool_choice": "auto"},
    "tools, required": {"tools": [WEATHER, CLOCK], "tool_choice": "required", **LIVELY},
    "tools, named": {
        "tools": [WEATHER, CLOCK],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        **LIVELY,
    },
    "tools, none": {"tools": [WEATHER], "tool_choice": "none"},
    "tools, one at a time": {"tools": [CLOCK], "parallel_tool_calls": False, "tool_choice": "required", **LIVELY},
    "tool results": {"messages": CALLED, "tools": [WEATHER]},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"logprobs": True, "top_logprobs": 5},
    "several choices": {"n": 3, "temperature": 1, "seed": 7},
    "json_schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": SCHEMA}},
        "max_tokens": 60,
    },
    "json_object": {"response_format": {"type": "json_object"}, "max_tokens": 40},
    "structured outputs: choice": {"structured_outputs": {"choice": ["red", "green"]}},
    "structured outputs: regex": {"structured_outputs": {"regex": "[a-f]{3}-[0-9]{4}"}},
    "structured outputs: grammar": {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}},
    "stop string": {"stop": "a", "max_tokens": 60},
    "stop list, kept in the text": {"stop": ["e", "zz"], "include_stop_str_in_output": True, "max_tokens": 60},
    "stop token ids": {"stop_token_ids": list(range(300, 700)), "max_tokens": 60},
    "seed": {"seed": 42, "temperature": 0.8, "top_p": 0.9},
    "penalties": {"presence_penalty": 1.5, "frequency_penalty": -0.5, "repetition_penalty": 1.2},
    "logit bias": {"logit_bias": {"300": 5, "301": -100}},
    "usage asked for": {"stream_options": {"include_usage": True}},
    "usage refused": {"stream_options": {"include_usage": False}},
    "usage of nothing": {"stream_options": None},
    "usage by no options": {"stream_options": {}},
    "usage in every event, but not asked for": {"stream_options": {"continuous_usage_stats": True}},
    "two texts, and no usage asked for": {"n": 2, "temperature": 1, "seed": 5, "stream_options": None},
    "usage in every event": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "top_k and min_p": {"top_k": 5, "min_p": 0.05, "temperature": 0.7, "seed": 3},
    "template arguments": {"chat_template_kwargs": {"enable_thinking": False, "colour": "bleu"}},
    "another template": {"chat_template": "{{ messages[0]['content'] }}!"},
    "no generation prompt": {"add_generation_prompt": False},
    "continue the last message": {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "echo": {"echo": True},
    "ignore_eos and min_tokens": {"ignore_eos": True, "min_tokens": 5, "max_tokens": 8},
    "token ids": {"return_token_ids": True},
    "tokens as token ids": {"return_tokens_as_token_ids": True, "logprobs": True},
    "special tokens shown": {"skip_special_tokens": False, "spaces_between_special_tokens": False},
    "bad words": {"bad_words": ["red"]},
    "allowed tokens": {"allowed_token_ids": [300, 301, 302]},
    "max_completion_tokens": {"max_tokens": None, "max_completion_tokens": 5},
    "one token": {"max_tokens": 1},
    "long": {"max_tokens": 600, "ignore_eos": True},
    "a long prompt": {"messages": [{"role": "user", "content": "weft and warp " * 150}]},
    "fields that OpenAI has": {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    "cache salt and priority": {"cache_salt": "pepper", "priority": 0},
    "unknown fields": {"x_new_field": {"b": [1, {"a": None}], "a": 1.50}, "another": "☃"},
    "emoji": {"messages": [{"role": "user", "content": "👩‍👩‍👧‍👦 🇨🇭 🏳️‍🌈"}]},
    "combining marks": {"messages": [{"role": "user", "content": "e\u0301 n\u0303 Z\u0351\u036b"}]},
    "right to left": {"messages": [{"role": "user", "content": "שלום עולم \u202eabc\u202c مرحبا"}]},
    "control characters": {"messages": [{"role": "user", "content": "\x00\x1f\x7f\u2028\u2029\ufeff\u200b"}]},
    "large integers": {"seed": 2**53 + 1, "temperature": 1, "x_big": 2**70, "x_exact": 12345678901234567890},
}

# Bodies whose very bytes matter, and that no encoder would write.
RAW: dict[str, str] = {
    "escapes": r'{"model":"tiny-chat","messages":[{"role":"user","content":"\ud83d\ude00 \u00e9 \/ \u0000"}],%s}',
    "escaped keys": r'{"\u006dodel":"tiny-chat","messages":[{"\u0072ole":"user","content":"a"}],%s}',
    "white space": '\r\n {\t"model" : "tiny-chat" ,\n "messages":[ {"role":"user","content":"a"} ] , %s }\n\n',
    "model last": '{"messages":[{"role":"user","content":"a"}],%s,"model":"tiny-chat"}',
    "numbers": '{"model":"tiny-chat","messages":[{"role":"user","content":"a"}],"top_p":1E0,"min_p":0.0e-5,%s}',
    "a key twice": '{"model":"tiny-chat","messages":[],"messages":[{"role":"user","content":"a"}],%s}',
    "model also deeper": '{"x":{"model":"no"},"model":"tiny-chat","messages":[{"role":"user","content":"a"}],%s}',
    "not a number, unread": '{"model":"tiny-chat","messages":[{"role":"user","content":"a"}],"x":[NaN,-Infinity],%s}',
}


def rows() -> Iterator[Row]:
    for name, fields in ASKED.items():
        yield from unstreamed_and_streamed(f"chat, {name}", PATH, {**BASE, **fields})
    for name, template in RAW.items():
        for suffix, stream in (("", "false"), (", streamed", "true")):
            body = template % f'"temperature":0,"max_tokens":6,"stream":{stream}'
            yield Row(f"chat, {name}{suffix}", PATH, body.encode())
    for encoding in ("utf-8-sig", "utf-16", "utf-16-be", "utf-32"):
        yield Row(f"chat, in {encoding}", PATH, encode(BASE).decode().encode(encoding))
    yield Row("chat, load asked for", PATH, encode(BASE), headers={**JSON, "endpoint-load-metrics-format": "JSON"})
    yield Row("chat, prompt logprobs", PATH, encode({**BASE, "prompt_logprobs": 2}))
    yield Row("chat, content type with charset", PATH, encode(BASE), headers={"content-type": "Application/JSON; a=b"})
