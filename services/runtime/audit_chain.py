"""The lines of an audit log, chained: each has a number and the hash of the line before it.

A line is one JSON object that begins with `seq` and `prev`. Its hash is the SHA-256 of its bytes as they stand in the
file, without the newline: what is canonical is what was written, so that nobody has to agree on how JSON is spelt. The
first line has the number 1 and sixty-four zeros for the one before it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final, NamedTuple

import msgspec

_HEAD: Final = re.compile(rb"([0-9]{20}) ([0-9a-f]{64})\n")


class Position(NamedTuple):
    """A place in the chain: a line's number and its hash."""

    seq: int
    hash: str


GENESIS: Final = Position(0, "0" * 64)
"""Before the first line."""


class Line(NamedTuple):
    """A line that was read: where it stands in the chain, the hash that it has for the one before, and what it says."""

    at: Position
    prev: str
    said: dict[str, Any]


def chain(body: bytes, after: Position) -> tuple[bytes, Position]:
    """The line, without its newline, for a JSON object that is not empty, and where it stands."""
    seq = after.seq + 1
    line = b'{"seq":%d,"prev":"%s",%s' % (seq, after.hash.encode(), body.removeprefix(b"{"))
    return line, Position(seq, hash_of(line))


def hash_of(line: bytes) -> str:
    """The hash of a line without its newline."""
    return hashlib.sha256(line).hexdigest()


def parse(line: bytes) -> Line | None:
    """A line without its newline; None if it is none of a chain."""
    try:
        said = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(said, dict):
        return None
    seq, prev = said.get("seq"), said.get("prev")
    if not isinstance(seq, int) or isinstance(seq, bool) or seq < 1 or not isinstance(prev, str):
        return None
    return Line(Position(seq, hash_of(line)), prev, said)


def head_to_bytes(head: Position) -> bytes:
    """As a head is kept beside its log: always of the same length, so that it is written over in one write."""
    return b"%020d %s\n" % (head.seq, head.hash.encode())


def head_from_bytes(text: bytes) -> Position | None:
    """None if there is none, or none that can be read."""
    match = _HEAD.fullmatch(text)
    return Position(int(match[1]), match[2].decode()) if match else None
