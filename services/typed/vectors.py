"""Vectors: numbers in JSON, or base64. Pure."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from binascii import Error
from typing import Any, Final

import msgspec
from msgspec import Raw

from services.typed.values import NOT, TEXT

_floats = msgspec.json.Decoder(list[float]).decode
_LARGEST: Final = 3.4028234663852886e38
"""That a float of 32 bits holds."""


def read_vector(raw: Raw) -> Any:
    """Numbers, or base64 of floats of 32 bits, of which the first byte is the lowest."""
    text = TEXT.read(raw)
    vector = array("f")
    try:
        if text is not NOT:
            vector.frombytes(b64decode(text, validate=True))
            if sys.byteorder == "big":
                vector.byteswap()
        else:
            numbers = _floats(raw)
            if any(abs(number) > _LARGEST for number in numbers):
                return NOT
            vector.extend(numbers)
    except (Error, ValueError, msgspec.DecodeError):
        return NOT
    return vector
