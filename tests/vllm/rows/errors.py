"""Errors: those of vLLM, which pass through, and those that Weft must make itself in vLLM's shape."""

from collections.abc import Callable, Iterator
from typing import Any

from tests.vllm.compare import anthropic_shape, same, same_shape
from tests.vllm.exchange import Answer
from tests.vllm.rows import chat, completions, responses
from tests.vllm.rows.row import CHAT_MODEL, EMBED_MODEL, JSON, Row, encode, unstreamed_and_streamed

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
COUNT = "/v1/messages/count_tokens"

# By vLLM: the mesh has no opinion on these, so every byte is vLLM's.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat, messages missing": (CHAT, {"model": CHAT_MODEL}),
    "chat, messages empty": (CHAT, {**chat.BASE, "messages": []}),
    "chat, messages of a wrong type": (CHAT, {**chat.BASE, "messages": "hello"}),
    "chat, role missing": (CHAT, {**chat.BASE, "messages": [{"content": "a"}]}),
    "chat, lone surrogate": (CHAT, {**chat.BASE, "messages": [{"role": "user", "content": "\\ud800"}]}),
    "chat, max_tokens of a wrong type": (CHAT, {**chat.BASE, "max_tokens": "many"}),
    "chat, max_tokens negative": (CHAT, {**chat.BASE, "max_tokens": -1}),
    "chat, temperature out of range": (CHAT, {**chat.BASE, "temperature": -1}),
    "chat, top_p out of range": (CHAT, {**chat.BASE, "top_p": 2}),
    "chat, n zero": (CHAT, {**chat.BASE, "n": 0}),
    "chat, stream of a wrong type": (CHAT, {**chat.BASE, "stream": "perhaps"}),
    "chat, too many top_logprobs": (CHAT, {**chat.BASE, "logprobs": True, "top_logprobs": 1000}),
    "chat, top_logprobs alone": (CHAT, {**chat.BASE, "top_logprobs": 2}),
    "chat, stream_options without stream": (CHAT, {**chat.BASE, "stream_options": {"include_usage": "x"}}),
    "chat, tool_choice without tools": (CHAT, {**chat.BASE, "tool_choice": "required"}),
    "chat, unknown tool": (
        CHAT,
        {**chat.BASE, "tools": [chat.CLOCK], "tool_choice": {"type": "function", "function": {"name": "no"}}},
    ),
    "chat, bad schema": (
        CHAT,
        {**chat.BASE, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": 1}}}},
    ),
    "chat, bad response_format": (CHAT, {**chat.BASE, "response_format": {"type": "nope"}}),
    "chat, context too long": (CHAT, {**chat.BASE, "messages": [{"role": "user", "content": "word " * 20000}]}),
    "chat, max_tokens above the context": (CHAT, {**chat.BASE, "max_tokens": 100_000}),
    "chat, seed above 2^63": (CHAT, {**chat.BASE, "seed": 2**63}),
    "chat, bad template": (CHAT, {**chat.BASE, "chat_template": "{{ 1 / 0 }}{% nonsense %}"}),
    "completions, prompt missing": (COMPLETIONS, {"model": CHAT_MODEL}),
    "completions, prompt of a wrong type": (COMPLETIONS, {**completions.BASE, "prompt": {"a": 1}}),
    "completions, context too long": (COMPLETIONS, {**completions.BASE, "prompt": "word " * 20000}),
    "completions, suffix": (COMPLETIONS, {**completions.BASE, "suffix": "end"}),
    "responses, input missing": (RESPONSES, {"model": CHAT_MODEL}),
    "responses, input of a wrong type": (RESPONSES, {**responses.RESPONSES, "input": 5}),
    "responses, unknown previous response": (RESPONSES, {**responses.RESPONSES, "previous_response_id": "resp_x"}),
    "responses, context too long": (RESPONSES, {**responses.RESPONSES, "input": "word " * 20000}),
    "messages, max_tokens missing": (MESSAGES, {"model": CHAT_MODEL, "messages": []}),
    "messages, max_tokens negative": (MESSAGES, {**responses.MESSAGES, "max_tokens": -1}),
    "messages, context too long": (
        MESSAGES,
        {**responses.MESSAGES, "messages": [{"role": "user", "content": "word " * 20000}]},
    ),
    "count_tokens, messages missing": (COUNT, {"model": CHAT_MODEL}),
    "tokenize, nothing to do": ("/tokenize", {"model": CHAT_MODEL}),
    "detokenize, wrong type": ("/detokenize", {"model": CHAT_MODEL, "tokens": "a"}),
    "detokenize, out of range": ("/detokenize", {"model": CHAT_MODEL, "tokens": [10**9]}),
}

# By Weft: it cannot tell which vLLM to ask.
NOT_AN_OBJECT: dict[str, bytes] = {
    "not JSON": b"not json",
    "JSON cut short": b'{"model": "tiny-chat", ',
    "something after the JSON": b'{"model":"tiny-chat"} x',
    "a raw line break in a string": b'{"model":"tiny-chat","x":"a\nb"}',
    "not UTF-8": b'{"model":"\xff"}',
    "an array": b"[1]",
    "a string": b'"x"',
    "a number": b"1",
    "null": b"null",
    "empty": b"",
    "nested 10,000 deep": b"[" * 10_000 + b"]" * 10_000,
    "nested 10,000 deep in a field": b'{"model":"tiny-chat","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "compressed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00",
}
CONTENT_TYPES: dict[str, dict[str, str]] = {
    "text/plain": {"Content-Type": "text/plain"},
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "none": {},
    "something like JSON": {"Content-Type": "application/vnd.api+json"},
}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat.BASE,
    COMPLETIONS: completions.BASE,
    RESPONSES: responses.RESPONSES,
    MESSAGES: responses.MESSAGES,
    COUNT: {"model": CHAT_MODEL, "messages": []},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1]},
}
POOLING_BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "a"},
    "/v1/score": {"text_1": "a", "text_2": "b"},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
}
UNKNOWN_ROUTES = ["/v1/nothing", "/nothing", "/v1", "/v1//models", "/v1/chat", "/v1/chat/completions/x"]
GETS = ["/v1/models", "/health", "/version"]


def made_by_weft(path: str) -> Callable[[Answer, Answer], None]:
    return anthropic_shape if path.startswith(MESSAGES) else same_shape


def bodies() -> Iterator[Row]:
    for path in (CHAT, MESSAGES, RESPONSES):
        for what, body in NOT_AN_OBJECT.items():
            yield Row(f"{path}, body {what}", path, body, compare=made_by_weft(path))
    for path in (CHAT, MESSAGES, "/v1/embeddings"):
        fields = BODIES.get(path) or {"model": EMBED_MODEL, **POOLING_BODIES[path]}
        model = CHAT_MODEL if path in BODIES else EMBED_MODEL
        for what, headers in CONTENT_TYPES.items():
            name = f"{path}, content type {what}"
            yield Row(name, path, encode(fields), headers=headers, model=model)
    zipped = {**JSON, "Content-Encoding": "gzip"}
    yield Row(f"{CHAT}, content encoding", CHAT, NOT_AN_OBJECT["compressed"], headers=zipped, compare=same_shape)


def models() -> Iterator[Row]:
    for path, fields in BODIES.items():
        body = encode({**fields, "model": "no-such-model"})
        yield Row(f"{path}, unknown model", path, body, compare=made_by_weft(path))
        if path in (CHAT, COMPLETIONS, MESSAGES, RESPONSES):
            body = encode({**fields, "model": "no-such-model", "stream": True})
            yield Row(f"{path}, unknown model, streamed", path, body, compare=made_by_weft(path))
        body = encode({**fields, "model": 5})
        yield Row(f"{path}, model of a wrong type", path, body, compare=made_by_weft(path))
    for path, fields in POOLING_BODIES.items():
        body = encode({**fields, "model": "no-such-model"})
        yield Row(f"{path}, unknown model", path, body, compare=same_shape, model=EMBED_MODEL)


def routes() -> Iterator[Row]:
    for path in UNKNOWN_ROUTES:
        for method, body in (("GET", None), ("POST", b"{}"), ("HEAD", None)):
            yield Row(f"{method} {path}", path, body, method, compare=same_shape)
    for path in BODIES:
        for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
            compare = anthropic_shape if path.startswith(MESSAGES) and method != "HEAD" else same_shape
            yield Row(f"{method} {path}", path, None, method, headers={}, compare=compare)
    for path in GETS:
        for method in ("POST", "DELETE"):
            yield Row(f"{method} {path}", path, None, method, headers={}, compare=same_shape)
    yield Row("GET /v1/models", "/v1/models", None, "GET", headers={}, compare=same_shape)


def rows() -> Iterator[Row]:
    for name, (path, fields) in REFUSED.items():
        if path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES) and "stream" not in fields:
            yield from unstreamed_and_streamed(f"{name}, refused", path, fields)
        else:
            yield Row(f"{name}, refused", path, encode(fields), compare=same)
    yield from bodies()
    yield from models()
    yield from routes()
