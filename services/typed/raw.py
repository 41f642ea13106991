"""JSON as text: the members of an object, with their values as they stand. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from json import JSONDecodeError, JSONDecoder
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]
from typing import Final, NoReturn

import msgspec
from msgspec import Raw

NULL: Final = Raw(b"null")

_raw = msgspec.json.Decoder(Raw)
_members = msgspec.json.Decoder(dict[str, Raw])
_elements = msgspec.json.Decoder(list[Raw])
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class FieldError(Exception):
    """A field of a request is wrong: `path` is the way to it from the message that is looked at, `why` the rest of a
    sentence that begins with it.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"'{path}' {why}.")
        self.path = path
        self.why = why

    def within(self, path: str) -> FieldError:
        """The same error, seen from the message that holds this one under `path`."""
        separator = "." if self.path and not self.path.startswith("[") else ""
        return FieldError(f"{path}{separator}{self.path}", self.why)


def json_text(text: str) -> Raw:
    """JSON text, checked, to be put somewhere as it stands. Raises `FieldError` without a path."""
    try:
        return _raw.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    start = _skip(text, 0)  # Python's decoder takes lone surrogates, too.
    end = _value_end(text, start)
    _at_end(text, end)
    return Raw(text[start:end].encode())


def unique_members(text: str) -> dict[str, Raw]:
    """The members of a JSON object, each of which stands in it once. Raises `FieldError` without a path."""
    found: dict[str, Raw] = {}
    for key, value in _pairs(text):
        if key in found:
            raise FieldError("", f"has the key '{key}' twice; send it once")
        found[key] = Raw(value.encode())
    return found


def members(raw: Raw | bytes) -> dict[str, Raw] | None:
    """The members of a JSON object, of those that stand in it twice the last, as other readers of JSON have it too;
    None if it is no object.
    """
    try:
        return _members.decode(raw)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return {key: Raw(value.encode()) for key, value in _pairs(bytes(raw).decode())}
    except (FieldError, UnicodeDecodeError):
        return None


def elements(raw: Raw | bytes) -> list[Raw] | None:
    """The elements of a JSON array, None if it is none."""
    try:
        return _elements.decode(raw)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return [Raw(one.encode()) for one in _items(bytes(raw).decode())]
    except (FieldError, UnicodeDecodeError):
        return None


def object_text(found: Mapping[str, Raw]) -> str:
    """An object of these members, as JSON text."""
    return msgspec.json.encode(found).decode()


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """The members of an object in order, as often as they stand there."""
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise FieldError("", "is not a JSON object")
    at = _skip(text, at + 1)
    more = text[at : at + 1] != "}"
    while more:
        if text[at : at + 1] != '"':
            _malformed(at)
        key, at = _key(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            _malformed(at)
        start = _skip(text, at + 1)
        end = _value_end(text, start)
        yield key, text[start:end]
        at, more = _next(text, end, "}")
    _at_end(text, at + 1)


def _items(text: str) -> Iterator[str]:
    """The elements of an array."""
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise FieldError("", "is not a JSON array")
    at = _skip(text, at + 1)
    more = text[at : at + 1] != "]"
    while more:
        end = _value_end(text, at)
        yield text[at:end]
        at, more = _next(text, end, "]")
    _at_end(text, at + 1)


def _next(text: str, at: int, close: str) -> tuple[int, bool]:
    """Where the next one begins, or where the last one is closed; and whether there is a next one."""
    at = _skip(text, at)
    if text[at : at + 1] == close:
        return at, False
    if text[at : at + 1] != ",":
        _malformed(at)
    return _skip(text, at + 1), True


def _at_end(text: str, at: int) -> None:
    if _skip(text, at) != len(text):
        _malformed(at)


def _key(text: str, at: int) -> tuple[str, int]:
    try:
        key, at = scanstring(text, at + 1)
    except JSONDecodeError as error:
        _malformed(error.pos)
    if _SURROGATE.search(key):
        raise FieldError("", "has a key with half of a surrogate pair, which no text can hold")
    return key, at


def _value_end(text: str, start: int) -> int:
    try:
        return _decoder.raw_decode(text, start)[1]
    except JSONDecodeError as error:
        _malformed(error.pos)
    except RecursionError:
        raise FieldError("", "is nested too deep") from None


def _skip(text: str, at: int) -> int:
    end: int = WHITESPACE.match(text, at).end()
    return end


def _malformed(at: int) -> NoReturn:
    raise FieldError("", f"is not JSON, from character {at} on")


def _no_constant(name: str) -> NoReturn:
    raise FieldError("", f"is not JSON, which has no {name}")


# Integers stay text: Python reads none of more than 4300 digits.
_decoder = JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)
