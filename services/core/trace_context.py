"""A span's place in its trace, as W3C's headers and the mesh's own frames carry it; pure."""

from __future__ import annotations

import random
import re
from typing import Final

import msgspec

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_LENGTH: Final = 55
"""Characters of a `traceparent` of version 00; later ones may have more."""
_STATE = re.compile(r"[\t\x20-\x7e]{0,512}")
_NO_TRACE: Final = bytes(16)
_NO_SPAN: Final = bytes(8)
_SAMPLED: Final = frozenset("13579bdf")
_PACKED: Final = 25
_FLAGGED: Final = b"\1"
_PLAIN: Final = b"\0"

_random = random.Random()  # seeded by the system; os.urandom would cost a system call a span
_bits = _random.getrandbits


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """A span's place: its trace, itself, whether its trace is sampled.

    It is kept as frames carry it: 16 bytes of the trace's id, 8 of the span's, and one of flags. Most calls are not
    sampled, and their places only travel: nobody reads an id of theirs, and none is written out in hexadecimal.
    """

    packed: bytes
    state: str = ""
    """`tracestate`, which travels unread."""

    @staticmethod
    def of(trace_id: str, span_id: str, sampled: bool, state: str = "") -> TraceContext:
        """The place with these ids, in hexadecimal."""
        return TraceContext(bytes.fromhex(trace_id + span_id) + (_FLAGGED if sampled else _PLAIN), state)

    @property
    def trace_id(self) -> str:
        """In hexadecimal, as W3C writes it."""
        return self.packed[:16].hex()

    @property
    def span_id(self) -> str:
        """Likewise."""
        return self.packed[16:24].hex()

    @property
    def sampled(self) -> bool:
        """Whether its trace is kept."""
        return bool(self.packed[24] & 1)

    @property
    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> TraceContext:
        """The place of a new span under this one."""
        packed = self.packed
        return TraceContext(packed[:16] + (_bits(64) or 1).to_bytes(8, "big") + packed[24:], self.state)

    def decided(self, *, sampled: bool) -> TraceContext:
        """A child of which it is decided whether it is sampled."""
        return TraceContext(self.packed[:16] + _span_id() + (_FLAGGED if sampled else _PLAIN), self.state)


def new_root(*, sampled: bool, trace_id: str = "") -> TraceContext:
    """The place of a span that begins a trace, of this id if there is one."""
    trace = bytes.fromhex(trace_id) if trace_id else _trace_id()
    return TraceContext(trace + _span_id() + (_FLAGGED if sampled else _PLAIN))


def unpack(packed: bytes, state: str = "") -> TraceContext | None:
    """The place that a frame names; None for anything that is none, as a peer may send."""
    if len(packed) != _PACKED or packed.startswith(_NO_TRACE) or packed.startswith(_NO_SPAN, 16):
        return None
    return TraceContext(packed, _clean(state) if state else "")


def _span_id() -> bytes:
    """A random id, never all zeros, which means none."""
    return (_bits(64) or 1).to_bytes(8, "big")


def _trace_id() -> bytes:
    """Likewise, for a trace."""
    return (_bits(128) or 1).to_bytes(16, "big")


def new_trace_id() -> str:
    """A random id, in hexadecimal, which an id of a request can be as well."""
    return _trace_id().hex()


def chance() -> float:
    """A random number from 0 to 1."""
    return _random.random()


def parse(traceparent: str | None, tracestate: str = "") -> TraceContext | None:
    """The span that a header names; None where there is none, or none that can be read: then a new trace begins, as
    W3C asks for (https://www.w3.org/TR/trace-context/).
    """
    if not traceparent or _TRACEPARENT.fullmatch(traceparent) is None:
        return None
    if len(traceparent) > _LENGTH and traceparent.startswith("00"):
        return None
    flags = _FLAGGED if traceparent[54] in _SAMPLED else _PLAIN
    return unpack(bytes.fromhex(traceparent[3:35] + traceparent[36:52]) + flags, tracestate)


def _clean(tracestate: str) -> str:
    """512 characters must travel, by W3C. What no header can have must not: it would end the header at the next hop."""
    return tracestate if _STATE.fullmatch(tracestate) is not None else ""
