"""The few fields of a request's body that the router reads; pure.

The body is decoded once and never encoded again: vLLM gets the client's bytes, with numbers above 2^53 and the order of
keys as they are. What must be changed in them is spliced (`splice.py`).
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec
from msgspec import UNSET

from services.core.errors import Reason, ServiceError
from services.router.splice import encoding_of, members

READ_KEYS: Final = (
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "prompt",
)
"""The keys that decide where a call goes and what it may cost; each may stand in a body once."""


NONE: Final = msgspec.Raw()


class Fields(msgspec.Struct, gc=False):
    """What the body holds under the keys that are read, of whatever type; UNSET where it has no such key. What may be
    long is left as it stands: NONE where it is not there.
    """

    model: Any = UNSET
    stream: Any = UNSET
    stream_options: Any = UNSET
    max_tokens: Any = UNSET
    max_completion_tokens: Any = UNSET
    max_output_tokens: Any = UNSET
    n: Any = UNSET
    best_of: Any = UNSET
    prompt: msgspec.Raw = NONE
    prompt_embeds: msgspec.Raw = NONE
    messages: msgspec.Raw = NONE
    input: msgspec.Raw = NONE
    previous_response_id: Any = UNSET
    conversation: Any = UNSET


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What a body asks for. `model` is None where it names none; `max_tokens` bounds the answer, 0 if the body does
    not. `plain` tells that the body is UTF-8 and none of its keys is spelt with escapes.
    """

    model: str | None
    stream: bool
    max_tokens: int
    fields: Fields = msgspec.field(default_factory=Fields)
    plain: bool = False


_decoder = msgspec.json.Decoder(Fields)
_QUOTED: Final = {key: b'"%b"' % key.encode() for key in READ_KEYS}
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_body(body: bytes) -> Wanted:
    """Reads a body. Raises BODY_NOT_JSON, BODY_NOT_OBJECT, BODY_TOO_DEEP, DUPLICATE_KEY or FIELD_INVALID."""
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _wanted(_read_slowly(body), plain=False)
    # Keys that are spelt with escapes, and keys of nested objects, need the slow way to be told from duplicates.
    plain = not (b"\\" in body and b"\\u00" in body)
    if not plain or _may_repeat(body, fields):
        return _wanted(_read_slowly(body), plain=plain)
    return _wanted(fields, plain=True)


def _may_repeat(body: bytes, fields: Fields) -> bool:
    """Whether a key that is read may stand twice; certain only where it says no. One that the body has not cannot: and
    to look for each costs as much as all the decoding.
    """
    count = body.count
    for key, quoted in _QUOTED.items():
        value = getattr(fields, key)
        if value is not UNSET and value is not NONE and count(quoted) > 1:
            return True
    return False


def _wanted(fields: Fields, *, plain: bool) -> Wanted:
    model = fields.model
    if model is UNSET:
        model = None
    if model is not None and not isinstance(model, str):
        raise ServiceError(Reason.FIELD_INVALID, "'model' must be a string.", param="body.model")
    if model is not None and not model.isascii() and _SURROGATE.search(model):
        # No header, log or message can hold it: everything after this would fail at it.
        raise ServiceError(Reason.FIELD_INVALID, "'model' holds half of a surrogate pair.", param="body.model")
    # Wrong types of these are vLLM's to refuse, in its own words.
    bound = 0
    for value in (fields.max_tokens, fields.max_completion_tokens, fields.max_output_tokens):
        if type(value) is int and value > 0:
            bound = value
            break
    return Wanted(model or None, fields.stream is True, bound, fields, plain)


def _read_slowly(body: bytes) -> Fields:
    """As vLLM reads: Python's own decoder takes other encodings, and NaN; and it tells duplicates apart."""
    if not body.strip():
        raise ServiceError(Reason.BODY_NOT_JSON, "The request has no body; send a JSON object.", param="body")
    try:
        text = body.decode(encoding_of(body)).removeprefix("\ufeff")
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
    keys = [member.key for member in members(text)]
    for key in READ_KEYS:
        if keys.count(key) > 1:
            message = f"The key '{key}' stands more than once in the request's body; send it once."
            raise ServiceError(Reason.DUPLICATE_KEY, message, param=key)
    found = {key: value[key] for key in Fields.__struct_fields__ if key in value}
    for key in _RAW:
        if key in found:
            found[key] = msgspec.Raw(json.dumps(found[key]).encode())
    return Fields(**found)


_RAW: Final = ("prompt", "prompt_embeds", "messages", "input")
