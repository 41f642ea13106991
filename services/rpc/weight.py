"""Messages that are small on the wire and huge in memory: an empty message inside another is two bytes there, and a
hundred and fifty here. Pure.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from services.core.errors import Reason, ServiceError

_LIGHT: Final = 1 << 20
"""Bytes up to which a message is not looked at: what it may become is bearable."""
_MOST: Final = 250_000
"""Fields of a message, those within it included: a hundred thousand texts to embed have fewer."""


def weighed(parse: Callable[[bytes], Any], *, streamed: bool) -> Callable[[bytes], Any]:
    """The same deserializer of a message's class; but of data with too many fields it makes the error that it is, and
    no message. In a stream, whose reader expects it to, it raises DecodeError.
    """
    kind: Descriptor = parse.__self__.DESCRIPTOR  # type: ignore[attr-defined]

    def deserialize(data: bytes) -> Any:
        if len(data) > _LIGHT and fields_of(data, kind, _MOST) > _MOST:
            message = f"The message has more than {_MOST} fields; send less at once."
            if streamed:
                raise DecodeError(message)
            return ServiceError(Reason.BODY_TOO_LARGE, message)
        return parse(data)

    return deserialize


def fields_of(data: bytes, kind: Descriptor, most: int) -> int:
    """How many fields a message has, those within it included; it is not counted further than to one more than `most`.
    What is malformed is for the parser to refuse.
    """
    count = 0
    spans = [(0, len(data), kind)]
    try:
        while spans:
            at, end, kind = spans.pop()
            inner = _messages(kind)
            while at < end:
                count += 1
                if count > most:
                    return count
                tag, at = _varint(data, at)
                if tag & 7 == 2:
                    size, at = _varint(data, at)
                    if size and (held := inner.get(tag >> 3)) is not None:
                        spans.append((at, min(at + size, end), held))
                    at += size
                else:
                    at = _varint(data, at)[1] if tag & 7 == 0 else at + _FIXED.get(tag & 7, 0)
    except (IndexError, ValueError):
        pass
    return count


_FIXED: Final = {1: 8, 5: 4}
"""Bytes of a value, by its wire type."""


@functools.cache
def _messages(kind: Descriptor) -> dict[int, Descriptor]:
    """The kinds of messages that a message holds, by their fields' numbers."""
    return {one.number: one.message_type for one in kind.fields if one.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE}  # type: ignore[misc]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises ValueError, or IndexError at the end of the data."""
    value = data[at]
    if value < 128:
        return value, at + 1
    value &= 127
    for shift in range(7, 70, 7):
        at += 1
        value |= (data[at] & 127) << shift
        if data[at] < 128:
            return value, at + 1
    raise ValueError("a varint of more than ten bytes")
