"""What the simulator says: the text of an answer, decided before its first token. Pure.

Texts are kept as bytes of a JSON string (escaped, without quotes), token by token, ready to be put into any event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from services.sim.bodies import Chat, Completion, Generation, NamedTool, Tool
from services.sim.config import SimConfig
from services.sim.errors import api_error, bad_parameter
from services.sim.schema import example
from services.sim.words import answer_words, count_tokens

#: Characters in one token of a guided answer.
_PIECE = 4

#: vLLM's own bound, VLLM_MAX_N_SEQUENCES.
_MAX_N = 16384


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the n texts of an answer. With `tool`, the text is the JSON of that function's arguments."""

    tokens: tuple[bytes, ...]
    finish_reason: str
    stop_reason: str | None = None
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one chat or completion."""

    id: str
    created: int
    model: str
    prompt: bytes
    choices: tuple[Choice, ...]
    include_usage: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest choice."""
        return max(len(choice.tokens) for choice in self.choices)

    def usage(self) -> tuple[int, int]:
        """Tokens of the prompt, and of all choices."""
        return count_tokens(self.prompt), sum(len(choice.tokens) for choice in self.choices)


def chat_answer(body: Chat, config: SimConfig, model: str, answer_id: str, created: int) -> Answer:
    """The answer to a chat. Raises Refusal where vLLM's own checks would."""
    if not body.messages:
        raise api_error(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    prompt = chat_prompt(body.messages, body.tools)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return _answer(body, _called_tool(body), prompt, limit, config, (model, answer_id, created))


def completion_answer(body: Completion, config: SimConfig, model: str, answer_id: str, created: int) -> Answer:
    """The answer to a completion; a list of prompts is read as one. Raises Refusal where vLLM's checks would."""
    if not body.prompt:
        message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise api_error(400, message, "prompt")
    prompt = body.prompt if isinstance(body.prompt, str) else msgspec.json.encode(body.prompt).decode()
    return _answer(body, None, utf8(prompt), body.max_tokens, config, (model, answer_id, created))


def chat_prompt(messages: list[dict[str, Any]], tools: list[Tool] | None = None) -> bytes:
    """The conversation as one text, so that a longer conversation begins with the shorter one."""
    preamble = msgspec.json.encode(tools).decode() if tools else ""
    turns = [f"<|{message.get('role')}|>{_text(message.get('content'))}\n" for message in messages]
    return utf8(preamble + "".join(turns))


def utf8(text: str) -> bytes:
    """The bytes of a text. Raises Refusal, as vLLM's tokenizer does, for one that has none (a lone surrogate)."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        message = "TextEncodeInput must be Union[TextInputSequence, Tuple[InputSequence, InputSequence]]"
        raise api_error(400, message) from None


def _answer(
    body: Generation,
    tool: tuple[str, object] | None,
    prompt: bytes,
    limit: int | None,
    config: SimConfig,
    identity: tuple[str, str, int],
) -> Answer:
    model, answer_id, created = identity
    count = 1 if body.n is None else body.n
    if count < 1:
        raise api_error(400, f"n must be at least 1, got {count}.")
    if count > _MAX_N:
        raise api_error(400, f"n must be at most {_MAX_N}, got {count}.")
    length = _length(limit, count_tokens(prompt), config)
    seed = config.seed + (body.seed or 0)
    guided = tool if tool else _guided(body)
    if guided:
        choices = (_guided_choice(guided, length, bool(tool)),) * count
    else:
        ended = "stop" if limit is None else "length"
        choices = tuple(
            _until_stop(Choice(answer_words(prompt, seed + i, length), ended), body.stop) for i in range(count)
        )
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    return Answer(answer_id, created, model, prompt, choices, include_usage)


def _length(limit: int | None, prompt_tokens: int, config: SimConfig) -> int:
    """How many tokens the answer may have, after vLLM's checks on the length of the context."""
    window = config.max_model_len
    if limit is not None and limit < 1:
        raise bad_parameter("max_tokens", limit, f"max_tokens must be at least 1, got {limit}.")
    if limit is not None and limit > window:
        raise bad_parameter(
            "max_tokens",
            limit,
            f"max_tokens={limit} cannot be greater than max_model_len={window}. Please request fewer output tokens.",
        )
    if prompt_tokens >= window:
        raise bad_parameter(
            "input_tokens",
            prompt_tokens,
            f"This model's maximum context length is {window} tokens. However, your prompt contains {prompt_tokens} "
            "input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt.",
        )
    if limit is not None and prompt_tokens + limit > window:
        raise bad_parameter(
            "input_tokens",
            prompt_tokens,
            f"This model's maximum context length is {window} tokens. However, you requested {limit} output tokens and "
            f"your prompt contains {prompt_tokens} input tokens, for a total of {prompt_tokens + limit} tokens. "
            "Please reduce the length of the input prompt or the number of requested output tokens.",
        )
    return min(config.max_tokens if limit is None else limit, window - prompt_tokens)


def _text(content: object) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _called_tool(body: Chat) -> tuple[str, object] | None:
    """The function that the request makes the model call, with the arguments of the call."""
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    for tool in body.tools or ():
        if body.tool_choice == "required" or tool.function.name == named:
            return tool.function.name, example(tool.function.parameters)
    return None


def _guided(body: Generation) -> tuple[str, object] | None:
    """The JSON that `response_format` asks for."""
    wanted = body.response_format
    if wanted and wanted.type == "json_object":
        return "", {"answer": "sim"}
    if wanted and wanted.type == "json_schema":
        return "", example((wanted.json_schema or {}).get("schema"))
    return None


def _guided_choice(guided: tuple[str, object], length: int, is_tool: bool) -> Choice:
    name, value = guided
    text = msgspec.json.encode(value).decode()
    pieces = [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
    tokens = tuple(msgspec.json.encode(piece)[1:-1] for piece in pieces[:length])
    finish_reason = "length" if len(pieces) > length else "tool_calls" if is_tool else "stop"
    return Choice(tokens, finish_reason, tool=name if is_tool else None)


def _until_stop(choice: Choice, stop: str | list[str] | None) -> Choice:
    """The choice up to the first stop string, which is left out as vLLM does."""
    stops = [stop] if isinstance(stop, str) else stop
    if not stops:
        return choice
    text = b"".join(choice.tokens).decode()
    found = [(text.index(word), word) for word in stops if word and word in text]
    if not found:
        return choice
    end, word = min(found)
    tokens, length = [], 0
    for token in choice.tokens:
        tokens.append(token[: end - length])
        length += len(token)
        if length >= end:
            break
    return Choice(tuple(tokens), "stop", word)
