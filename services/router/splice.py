"""Changing single values in the bytes of a JSON object, and leaving every other byte as it was; pure.

The caller says by the `Fields` that were read which keys the body has. Where it is plain, a key that is not there goes
in front of the first one, and the value of one whose quoted name occurs once is found by that; everything else is found
by walking through the members, which takes as long as decoding all.
"""

from __future__ import annotations

import codecs
import functools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]
from typing import NamedTuple

from services.core.errors import Reason, ServiceError


class Edit(NamedTuple):
    """A value, as JSON text in ASCII, for a key of the body, or for one of the object that the body has under `inside`.
    `there` tells whether the key is there now; None, that it is not known.
    """

    key: str
    value: str
    there: bool | None = None
    inside: str = ""


def splice(body: bytes, edits: Iterable[Edit], *, plain: bool = False) -> bytes:
    """The body with other values. It has passed `read_body`, which also tells whether it is `plain`.

    Raises BODY_TOO_DEEP.
    """
    for edit in edits:
        quick = _quickly(body, edit) if plain else None
        body = quick if quick is not None else _slowly(body, edit)
    return body


def rename_model(body: bytes, name: str, *, plain: bool = False) -> bytes:
    """The body with another model's name. Raises BODY_TOO_DEEP."""
    return splice(body, (Edit("model", json.dumps(name)),), plain=plain)


def _quickly(body: bytes, edit: Edit) -> bytes | None:
    """By looking for the key alone; None where that does not tell its place for certain."""
    if edit.there is None:
        return None
    if edit.there:
        found = _scalar(edit.key).search(body)
        if found is None or body.count(b'"%b"' % edit.key.encode()) > 1:
            return None
        start, end = found.span(1)
        return b"".join((body[:start], edit.value.encode(), body[end:]))
    if edit.inside:
        return None
    at = body.index(b"{") + 1
    separator = b"" if body[at:].lstrip().startswith(b"}") else b", "
    return b'%b"%b": %b%b%b' % (body[:at], edit.key.encode(), edit.value.encode(), separator, body[at:])


@functools.lru_cache(maxsize=32)
def _scalar(key: str) -> re.Pattern[bytes]:
    r"""A key with a value that is neither an object nor an array. A string's end is the first quote without a backslash
    before it, of an even number.
    """
    return re.compile(rb'"%b"\s*:\s*("(?:[^"\\]|\\.)*"|[-+.\w]+)' % re.escape(key).encode(), re.DOTALL)


def _slowly(body: bytes, edit: Edit) -> bytes:
    encoding = encoding_of(body)
    # The fast way of reading lets bytes pass that are not UTF-8, which vLLM then refuses in its own words.
    text = body.decode(encoding, "surrogateescape")
    shift = len(text) - len(text.removeprefix("\ufeff"))
    try:
        holder, start = text[shift:], shift
        if edit.inside:
            outer = next((member for member in members(holder) if member.key == edit.inside), None)
            if outer is None or holder[outer.start] != "{":
                value = f'{{"{edit.key}": {edit.value}}}'
                return _slowly(body, Edit(edit.inside, value))
            holder, start = holder[outer.start : outer.end], shift + outer.start
        place = next((member for member in members(holder) if member.key == edit.key), None)
    except RecursionError as error:
        raise ServiceError(Reason.BODY_TOO_DEEP) from error
    if place is not None:
        first, last, value = start + place.start, start + place.end, edit.value
    else:
        first = last = text.index("{", start) + 1
        separator = "" if text[first:].lstrip().startswith("}") else ", "
        value = f'"{edit.key}": {edit.value}{separator}'
    return (text[:first] + value + text[last:]).encode(encoding, "surrogateescape")


def encoding_of(body: bytes) -> str:
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
class Member:
    """A key of an object, and the place of its value."""

    key: str
    start: int
    end: int


def members(text: str) -> Iterator[Member]:
    """The members of the object that a valid JSON text is, with the places of their values."""
    decoder = json.JSONDecoder(parse_int=str)  # Python reads no integer of more than 4300 digits.
    space = WHITESPACE.match
    at = space(text, space(text, 0).end() + 1).end()
    while text[at] == '"':
        key, at = scanstring(text, at + 1)
        start = space(text, space(text, at).end() + 1).end()
        _, end = decoder.raw_decode(text, start)
        yield Member(key, start, end)
        at = space(text, end).end()
        if text[at] == "}":
            return
        at = space(text, at + 1).end()
