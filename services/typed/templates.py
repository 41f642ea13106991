"""Events of a stream that are byte for byte the same but for one text, known by what stands around it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

_strings = msgspec.json.Decoder(list[str]).decode


class Template(NamedTuple):
    """What stands before the text and after it, with its quotes, and how many bytes both are; the choice, and the key,
    of the text.
    """

    head: bytes
    tail: bytes
    size: int
    choice: int
    key: str


NONE: Final = Template(b"", b"", -1, 0, "")
"""Fits no event."""


def template_of(data: bytes, choice: int, key: str) -> Template | None:
    """The template of an event that was read as one which says nothing but this text, under this key; None if it is not
    certain where that stands.
    """
    name = f'"{key}"'.encode()
    before, _, rest = data.partition(name)
    if b"\\" in data or b"\n" in data or name in rest:  # so that every quote is one, and the name is the member's
        return None
    colon, quote, rest = rest.partition(b'"')
    _, _, after = rest.partition(b'"')
    head, tail = before + name + colon + quote, quote + after
    return Template(head, tail, len(head) + len(tail), choice, key)


def texts_between(run: Sequence[bytes]) -> list[str] | None:
    """The texts of events that have these bytes in the template's place; None if one of them is not what stands between
    the quotes of a string.
    """
    try:
        # A string holds no line feed: whatever the bytes are, each is a string of its own, or more than one.
        texts = _strings(b'["' + b'"\n,"'.join(run) + b'"]')
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return texts if len(texts) == len(run) else None
