"""Completions, and the two routes of the tokenizer."""

from collections.abc import Iterator
from typing import Any

from tests.vllm.rows.chat import WEATHER
from tests.vllm.rows.row import CHAT_MODEL, Row, encode, unstreamed_and_streamed

PATH = "/v1/completions"
BASE: dict[str, Any] = {"model": CHAT_MODEL, "prompt": "Once upon", "temperature": 0, "max_tokens": 12}
MESSAGES = [{"role": "user", "content": "hé 👋"}]

ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "several prompts": {"prompt": ["One", "Two", "Three"]},
    "token ids as prompt": {"prompt": [0, 300, 301]},
    "several token prompts": {"prompt": [[0, 300], [0, 301]]},
    "echo": {"echo": True},
    "logprobs": {"logprobs": 3},
    "echo with logprobs": {"echo": True, "logprobs": 1},
    "several choices": {"n": 2, "temperature": 1, "seed": 9},
    "stop": {"stop": ["a"], "max_tokens": 50},
    "seed": {"seed": 11, "temperature": 1.2},
    "usage asked for": {"stream_options": {"include_usage": True}},
    "usage refused": {"stream_options": {"include_usage": False, "continuous_usage_stats": True}},
    "usage in every event": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "token ids": {"return_token_ids": True},
    "structured outputs: json": {"structured_outputs": {"json": {"enum": ["left", "right"]}}, "max_tokens": 30},
    "special tokens": {"add_special_tokens": False, "skip_special_tokens": False},
    "prompt cut": {"prompt": "a b c d e f g h i j", "truncate_prompt_tokens": 3, "return_token_ids": True},
    "unknown fields": {"x_new_field": [1, 2.0, "three"]},
}

TOKENIZER: dict[str, tuple[str, dict[str, Any]]] = {
    "tokenize, prompt": ("/tokenize", {"prompt": "Weft 👋 é"}),
    "tokenize, token strings": ("/tokenize", {"prompt": "Weft 👋 é", "return_token_strs": True}),
    "tokenize, no special tokens": ("/tokenize", {"prompt": "a", "add_special_tokens": False}),
    "tokenize, messages": ("/tokenize", {"messages": MESSAGES}),
    "tokenize, messages and tools": ("/tokenize", {"messages": MESSAGES, "tools": [WEATHER]}),
    "tokenize, no generation prompt": ("/tokenize", {"messages": MESSAGES, "add_generation_prompt": False}),
    "detokenize": ("/detokenize", {"tokens": [0, 300, 400, 5]}),
    "detokenize, nothing": ("/detokenize", {"tokens": []}),
}


def rows() -> Iterator[Row]:
    for name, fields in ASKED.items():
        yield from unstreamed_and_streamed(f"completions, {name}", PATH, {**BASE, **fields})
    yield Row("completions, prompt logprobs", PATH, encode({**BASE, "prompt_logprobs": 1}))
    for name, (path, fields) in TOKENIZER.items():
        yield Row(name, path, encode({"model": CHAT_MODEL, **fields}))
