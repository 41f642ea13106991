"""Answers as vLLM writes them: one JSON object, or server-sent events. Pure; member for member as vLLM 0.32."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from services.sim.answers import Answer, Choice

DONE = b"data: [DONE]\n\n"

_FINGERPRINT = b'"system_fingerprint":"vllm-0.32.0-sim"'


def error_event(message: str) -> bytes:
    """The event by which vLLM reports a failure in mid-stream; `DONE` follows it."""
    body = {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def chat_json(answer: Answer, cached: int) -> bytes:
    """The body of a chat completion that is not streamed."""
    tail = b',"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null'
    choices = [_chat_choice(i, choice, answer.id) for i, choice in enumerate(answer.choices)]
    return _whole(answer, b"chat.completion", choices, cached, tail)


def completion_json(answer: Answer, cached: int) -> bytes:
    """The body of a text completion that is not streamed."""
    choices = [
        b'{"index":%d,"text":"%b","logprobs":null,"finish_reason":%b,"token_ids":null,'
        b'"prompt_logprobs":null,"prompt_token_ids":null,"routed_experts":null}'
        % (i, b"".join(choice.tokens), _finish(choice))
        for i, choice in enumerate(answer.choices)
    ]
    return _whole(answer, b"text_completion", choices, cached, b"")


@dataclass(frozen=True, slots=True)
class Script:
    """The events of a streamed answer. The bytes around its tokens are made once, so an event is one concatenation."""

    answer: Answer
    #: The members with which every event begins.
    head: bytes
    #: The events before the first token.
    opening: list[bytes]
    #: For each choice, the bytes before a token, after it, and after the choice's last token.
    around: list[tuple[bytes, bytes, bytes]]

    def tokens(self, start: int, stop: int) -> list[bytes]:
        """The events of the tokens from `start` up to `stop`, of all choices in turn."""
        if len(self.around) == 1:
            (before, after, last), tokens = self.around[0], self.answer.choices[0].tokens
            events = [before + token + after for token in tokens[start:stop]]
            if stop >= len(tokens) > start:
                events[-1] = before + tokens[-1] + last
            return events
        return [
            before + choice.tokens[k] + (last if k + 1 == len(choice.tokens) else after)
            for k in range(start, stop)
            for choice, (before, after, last) in zip(self.answer.choices, self.around, strict=True)
            if k < len(choice.tokens)
        ]

    def closing(self, cached: int) -> list[bytes]:
        """What follows the last token: the usage, if the request asked for it, and the end mark."""
        if not self.answer.include_usage:
            return [DONE]
        usage = _usage(self.answer, b'{"cached_tokens":%d}' % cached)
        return [b'%b,"choices":[],"usage":{%b},%b}\n\n' % (self.head, usage, _FINGERPRINT), DONE]


def chat_script(answer: Answer) -> Script:
    """The events of a streamed chat completion."""
    head = _event_head(answer, b"chat.completion.chunk")
    opening = [
        b'%b,"choices":[{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
        b'"prompt_token_ids":null,"prompt_text":null}\n\n' % (head, i)
        for i in range(len(answer.choices))
    ]
    around = []
    for i, choice in enumerate(answer.choices):
        start = b'%b,"choices":[{"index":%d,"delta":{"content":' % (head, i)
        rest = b',"logprobs":null,"finish_reason":%b,"token_ids":null}]'
        if choice.tool is None:
            before, close = start + b'"', b'"}'
        else:
            call = b'"id":%b,"type":"function","index":0,"function":{"name":%b}' % _tool_call(choice, answer.id, i)
            opening.append(start + b'null,"tool_calls":[{' + call + b"}]}" + rest % b"null" + b"}\n\n")
            before, close = start + b'null,"tool_calls":[{"index":0,"function":{"arguments":"', b'"}}]}'
        around.append((before, close + rest % b"null" + b"}\n\n", close + rest % _finish(choice) + _event_end(answer)))
    return Script(answer, head, opening, around)


def completion_script(answer: Answer) -> Script:
    """The events of a streamed text completion."""
    head = _event_head(answer, b"text_completion")
    rest = b'","logprobs":null,"finish_reason":%b,"prompt_token_ids":null,"token_ids":null}]'
    around = [
        (
            b'%b,"choices":[{"index":%d,"text":"' % (head, i),
            rest % b'null,"stop_reason":null' + b"}\n\n",
            rest % _finish(choice) + _event_end(answer),
        )
        for i, choice in enumerate(answer.choices)
    ]
    return Script(answer, head, [], around)


def _event_head(answer: Answer, kind: bytes) -> bytes:
    return b"data: " + _head(answer, kind)


def _event_end(answer: Answer) -> bytes:
    """vLLM puts the fingerprint on the stream's last event: the usage, or else the finishing token."""
    return b"}\n\n" if answer.include_usage else b"," + _FINGERPRINT + b"}\n\n"


def _head(answer: Answer, kind: bytes) -> bytes:
    identity = msgspec.json.encode(answer.id), kind, answer.created, msgspec.json.encode(answer.model)
    return b'{"id":%b,"object":"%b","created":%d,"model":%b' % identity


def _whole(answer: Answer, kind: bytes, choices: list[bytes], cached: int, tail: bytes) -> bytes:
    details = b'{"cached_tokens":%d,"created_cache_tokens":null,"multimodal_tokens":null}' % cached
    return (
        b'%b,"choices":[%b],"service_tier":null,%b,"usage":{%b,"completion_tokens_details":null}%b,'
        b'"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
        % (_head(answer, kind), b",".join(choices), _FINGERPRINT, _usage(answer, details), tail)
    )


def _usage(answer: Answer, details: bytes) -> bytes:
    prompt, completion = answer.usage()
    counts = prompt, prompt + completion, completion, details
    return b'"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":%b' % counts


def _chat_choice(index: int, choice: Choice, answer_id: str) -> bytes:
    text, content, calls = b"".join(choice.tokens), b"null", b""
    if choice.tool is None:
        content = b'"%b"' % text
    else:
        named = *_tool_call(choice, answer_id, index), text
        calls = b'"tool_calls":[{"id":%b,"type":"function","function":{"name":%b,"arguments":"%b"}}],' % named
    return (
        b'{"index":%d,"message":{"role":"assistant","content":%b,"refusal":null,"annotations":null,"audio":null,'
        b'"function_call":null,%b"reasoning":null},"logprobs":null,"finish_reason":%b,"token_ids":null,'
        b'"routed_experts":null}' % (index, content, calls, _finish(choice))
    )


def _tool_call(choice: Choice, answer_id: str, index: int) -> tuple[bytes, bytes]:
    """The id and the name of a choice's tool call, as JSON."""
    call_id = f"chatcmpl-tool-{answer_id.removeprefix('chatcmpl-')}-{index}"
    return msgspec.json.encode(call_id), msgspec.json.encode(choice.tool)


def _finish(choice: Choice) -> bytes:
    return b'"%b","stop_reason":%b' % (choice.finish_reason.encode(), msgspec.json.encode(choice.stop_reason))
