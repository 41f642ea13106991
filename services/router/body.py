"""The few fields of a request's body that routing reads, and the splice of a model's name; pure.

The body is decoded once and never encoded again: vLLM gets the client's bytes, with numbers above 2^53 and the order of
keys as they are.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]
from typing import Any, Final

import msgspec

from services.core.errors import Reason, ServiceError

READ_KEYS: Final = ("model", "stream", "max_tokens", "max_completion_tokens", "max_output_tokens")
"""The keys that routing reads; each may stand in a body once."""


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What a body asks for. `model` is None where it names none; `max_tokens` bounds the answer, 0 if the body does
    not.
    """

    model: str | None
    stream: bool
    max_tokens: int


class _Fields(msgspec.Struct, gc=False):
    model: Any = None
    stream: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None


_decoder = msgspec.json.Decoder(_Fields)
_QUOTED_KEYS: Final = tuple(b'"%b"' % key.encode() for key in READ_KEYS)
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_body(body: bytes) -> Wanted:
    """Reads a body. Raises BODY_NOT_JSON, BODY_NOT_OBJECT, BODY_TOO_DEEP, DUPLICATE_KEY or FIELD_INVALID."""
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _wanted(_read_slowly(body))
    # Keys that are spelt with escapes, and keys of nested objects, need the slow way to be told from duplicates.
    if b"\\u00" in body or _may_repeat(body):
        return _wanted(_read_slowly(body))
    return _wanted(fields)


def _may_repeat(body: bytes) -> bool:
    """Whether a key that routing reads may stand twice; certain only where it says no."""
    count = body.count
    return any(count(quoted) > 1 for quoted in _QUOTED_KEYS)


def _wanted(fields: _Fields) -> Wanted:
    model = fields.model
    if model is not None and not isinstance(model, str):
        raise ServiceError(Reason.FIELD_INVALID, "'model' must be a string.", param="body.model")
    if model is not None and not model.isascii() and _SURROGATE.search(model):
        # No header, log or message can hold it: everything after this would fail at it.
        raise ServiceError(Reason.FIELD_INVALID, "'model' holds half of a surrogate pair.", param="body.model")
    bounds = [fields.max_tokens, fields.max_completion_tokens, fields.max_output_tokens]
    # Wrong types of these are vLLM's to refuse, in its own words.
    return Wanted(
        model=model or None,
        stream=fields.stream is True,
        max_tokens=next((bound for bound in bounds if type(bound) is int and bound > 0), 0),
    )


def _read_slowly(body: bytes) -> _Fields:
    """As vLLM reads: Python's own decoder takes other encodings, and NaN; and it tells duplicates apart."""
    if not body.strip():
        raise ServiceError(Reason.BODY_NOT_JSON, "The request has no body; send a JSON object.", param="body")
    try:
        text = body.decode(_encoding(body)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ServiceError(Reason.BODY_NOT_JSON, f"The request's body is not text: {error.reason}.") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"The request's body is not JSON: {error.msg} at character {error.pos}."
        raise ServiceError(Reason.BODY_NOT_JSON, message, param=f"body.{error.pos}") from error
    except RecursionError as error:
        raise ServiceError(Reason.BODY_TOO_DEEP) from error
    except ValueError as error:  # An integer of more digits than Python reads.
        raise ServiceError(Reason.BODY_NOT_JSON, f"The request's body cannot be read: {error}.") from error
    if not isinstance(value, dict):
        kind = (
            "null"
            if value is None
            else {list: "an array", str: "a string", bool: "a boolean"}.get(type(value), "a number")
        )
        raise ServiceError(
            Reason.BODY_NOT_OBJECT, f"The request's body must be a JSON object, not {kind}.", param="body"
        )
    keys = [member.key for member in _members(text)]
    for key in READ_KEYS:
        if keys.count(key) > 1:
            message = f"The key '{key}' stands more than once in the request's body; send it once."
            raise ServiceError(Reason.DUPLICATE_KEY, message, param=key)
    return _Fields(**{key: value.get(key) for key in READ_KEYS})


def _encoding(body: bytes) -> str:
    """As JSON's decoder finds it, but of those encodings that leave a byte order mark in the text, so that encoding
    gives the same bytes again.
    """
    encoding = json.detect_encoding(body)
    if encoding == "utf-16":
        return "utf-16-be" if body.startswith(codecs.BOM_UTF16_BE) else "utf-16-le"
    if encoding == "utf-32":
        return "utf-32-be" if body.startswith(codecs.BOM_UTF32_BE) else "utf-32-le"
    return encoding.removesuffix("-sig")


@dataclass(frozen=True, slots=True)
class _Member:
    key: str
    start: int
    end: int


def _members(text: str) -> Iterator[_Member]:
    """The members of the object that a valid JSON text is, with the places of their values."""
    decoder = json.JSONDecoder(parse_int=str)  # Python reads no integer of more than 4300 digits.
    space = WHITESPACE.match
    at = space(text, space(text, 0).end() + 1).end()
    while text[at] == '"':
        key, at = scanstring(text, at + 1)
        start = space(text, space(text, at).end() + 1).end()
        _, end = decoder.raw_decode(text, start)
        yield _Member(key, start, end)
        at = space(text, end).end()
        if text[at] == "}":
            return
        at = space(text, at + 1).end()


def rename_model(body: bytes, name: str) -> bytes:
    """The body with another model's name, and every other byte as it was. The body has passed `read_body`.

    Raises BODY_TOO_DEEP.
    """
    encoding = _encoding(body)
    # The fast way of reading lets bytes pass that are not UTF-8, which vLLM then refuses in its own words.
    text = body.decode(encoding, "surrogateescape")
    quoted = json.dumps(name)
    shift = len(text) - len(text.removeprefix("\ufeff"))
    try:
        place = next(((shift + m.start, shift + m.end) for m in _members(text[shift:]) if m.key == "model"), None)
    except RecursionError as error:
        raise ServiceError(Reason.BODY_TOO_DEEP) from error
    if place is None:
        start = end = text.index("{") + 1
        separator = "" if text[start:].lstrip().startswith("}") else ", "
        quoted = f'"model": {quoted}{separator}'
    else:
        start, end = place
    return (text[:start] + quoted + text[end:]).encode(encoding, "surrogateescape")
