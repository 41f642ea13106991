"""The bodies of requests: decoding and validation, with vLLM's errors for bad ones."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from services.sim.errors import Refusal, api_error, detail, invalid_field


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Function(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    function: Function


class NamedTool(msgspec.Struct, frozen=True):
    function: Function


class ResponseFormat(msgspec.Struct, frozen=True):
    type: str
    json_schema: dict[str, Any] | None = None


class Body(msgspec.Struct, frozen=True):
    """What every inference request has. Fields that the simulator does not know are ignored."""

    model: str | None = None


class Generation(Body, frozen=True):
    """What chat and completions share."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    response_format: ResponseFormat | None = None


class Chat(Generation, frozen=True, kw_only=True):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None


class Completion(Generation, frozen=True):
    prompt: str | list[Any] | None = None


class Embedding(Body, frozen=True, kw_only=True):
    input: str | list[Any]
    encoding_format: str | None = None


class Rerank(Body, frozen=True, kw_only=True):
    query: str
    documents: list[str]
    top_n: int = 0


class Score(Body, frozen=True, kw_only=True):
    text_1: str | list[str]
    text_2: str | list[str]


class Tokenize(Body, frozen=True):
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    return_token_strs: bool | None = None


class Detokenize(Body, frozen=True, kw_only=True):
    tokens: list[int]


B = TypeVar("B", bound=Body)

#: Pydantic's error for the type that msgspec expected.
_EXPECTED = {
    "str": ("string_type", "Input should be a valid string"),
    "int": ("int_parsing", "Input should be a valid integer, unable to parse string as an integer"),
    "bool": ("bool_parsing", "Input should be a valid boolean, unable to interpret input"),
    "array": ("list_type", "Input should be a valid list"),
    "object": ("dict_type", "Input should be a valid dictionary"),
}


def decode(raw: bytes, content_type: str, kind: type[B]) -> B:
    """The body of a request. Raises Refusal with vLLM's answer to bytes or values that it does not accept."""
    media = content_type.partition(";")[0].lower()
    if media != "application/json":
        # vLLM looks at the syntax of anything that calls itself JSON before it refuses the content type.
        if media.startswith("application/") and media.endswith("+json"):
            _parse(raw)
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise api_error(400, message, kind="Bad Request")
    try:
        return msgspec.json.decode(raw, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _convert(_parse(raw), kind)


def _parse(raw: bytes) -> Any:
    """JSON as vLLM's framework reads it, with Python's own decoder: NaN, UTF-16 and a byte order mark are accepted."""
    if not raw:
        return None
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        context = f", 'ctx': {{'error': '{error.msg}'}}"
        raise invalid_field(f"body.{error.pos}", "json_invalid", "JSON decode error", {}, context) from None
    except (ValueError, RecursionError):
        raise detail(400, "There was an error parsing the body") from None


def _convert(value: Any, kind: type[B]) -> B:
    if value is None:
        raise invalid_field("body", "missing", "Field required", None)
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise invalid_field("body", "model_attributes_type", message, value)
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error), value) from None


def _explain(error: str, value: Any) -> Refusal:
    """msgspec's sentence about a field, as vLLM's answer."""
    path = re.search(r"at `\$\.?([^`]*)`", error)
    steps = re.findall(r"[^.\[\]]+", path[1]) if path else []
    for step in steps:
        value = value[int(step)] if isinstance(value, list) else value.get(step)
    if missing := re.search(r"missing required field `([^`]+)`", error):
        return invalid_field(".".join(["body", *steps, missing[1]]), "missing", "Field required", value)
    expected = re.search(r"Expected `(\w+)", error)
    kind, message = _EXPECTED.get(expected[1] if expected else "", ("value_error", error.partition(" - at")[0]))
    return invalid_field(".".join(["body", *steps]), kind, message, value)
