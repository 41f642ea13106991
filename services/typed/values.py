"""Single values: of a field's type to what JSON has in its place, and back where that gives the same value again. Pure.

`write` takes a field's value and returns what msgspec encodes. `read` takes JSON, and returns a field's value, or NOT
where the field cannot hold exactly this.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from msgspec import Raw

from services.typed.raw import FieldError, elements, json_text, unique_members

NOT: Final[Any] = object()
"""The field cannot hold it."""


class Value(NamedTuple):
    """How values of one kind are written and read. Without `write`, they stand in JSON as they are."""

    write: Callable[[Any], Any] | None
    read: Callable[[Raw], Any]


def _reading(kind: Any, check: Callable[[Any], Any] | None = None) -> Callable[[Raw], Any]:
    decode = msgspec.json.Decoder(kind).decode

    def read(raw: Raw) -> Any:
        try:
            value = decode(raw)
        except (msgspec.DecodeError, RecursionError):
            return NOT
        return value if check is None else check(value)

    return read


def _ranged(bits: int) -> Callable[[int], Any]:
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1
    return lambda value: value if least <= value <= most else NOT


def _exact(value: int | float) -> Any:
    """A number as a double, if none of its digits is lost."""
    if type(value) is float:
        return value
    try:
        double = float(value)
    except OverflowError:
        return NOT
    return double if double == value else NOT


def _finite(value: float) -> float:
    """JSON has no other numbers."""
    if not math.isfinite(value):
        raise FieldError("", "is no number that JSON has")
    return value


def _read_raw(raw: Raw) -> Any:
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        return NOT


def _integers(data: bytes) -> list[int]:
    return list(data)


def _bytes_of(integers: list[int]) -> Any:
    try:
        return bytes(integers)
    except ValueError:
        return NOT


TEXT: Final = Value(None, _reading(str))
BOOL: Final = Value(None, _reading(bool))
INT32: Final = Value(None, _reading(int, _ranged(32)))
INT64: Final = Value(None, _reading(int, _ranged(64)))
DOUBLE: Final = Value(_finite, _reading(int | float, _exact))
RAW: Final = Value(json_text, _read_raw)
"""JSON text."""
OCTETS: Final = Value(_integers, _reading(list[int], _bytes_of))
"""Bytes as a list of numbers."""

SCALARS: Final[Mapping[int, Value]] = {
    FieldDescriptor.TYPE_STRING: TEXT,
    FieldDescriptor.TYPE_BOOL: BOOL,
    FieldDescriptor.TYPE_INT32: INT32,
    FieldDescriptor.TYPE_INT64: INT64,
    FieldDescriptor.TYPE_DOUBLE: DOUBLE,
    FieldDescriptor.TYPE_BYTES: OCTETS,
}
"""By the type of a field's descriptor."""


def listed(value: Value) -> Value:
    """A list of such values."""

    def write(values: Iterable[Any]) -> list[Any]:
        if value.write is None:
            return list(values)
        return [at(f"[{i}]", value.write, one) for i, one in enumerate(values)]

    def read(raw: Raw) -> Any:
        if (found := elements(raw)) is None:
            return NOT
        values = [value.read(item) for item in found]
        return NOT if NOT in values else values

    return Value(write, read)


def mapped(value: Value) -> Value:
    """An object with such values."""

    def write(values: Mapping[str, Any]) -> dict[str, Any]:
        if value.write is None:
            return dict(values)
        return {key: at(f"[{key!r}]", value.write, one) for key, one in values.items()}

    def read(raw: Raw) -> Any:
        try:
            found = {key: value.read(one) for key, one in unique_members(bytes(raw).decode()).items()}
        except (FieldError, UnicodeDecodeError):
            return NOT
        return NOT if NOT in found.values() else found

    return Value(write, read)


def at(place: str, write: Callable[[Any], Any], value: Any) -> Any:
    """Writes a value that stands in a place; its errors tell of that."""
    try:
        return write(value)
    except FieldError as error:
        raise error.within(place) from None


def base64_text(data: bytes) -> str:
    """As JSON has bytes otherwise."""
    return base64.b64encode(data).decode()


def base64_bytes(text: str) -> Any:
    """The bytes, if they are written as here."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return NOT
    return data if base64_text(data) == text else NOT
