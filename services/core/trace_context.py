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
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_SAMPLED: Final = frozenset("13579bdf")
_PACKED: Final = 25

_random = random.Random()  # seeded by the system; os.urandom would cost a system call a span


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """A span's place: its trace, itself, whether its trace is sampled. Ids are in hexadecimal, as on the wire."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""
    """`tracestate`, which travels unread."""

    @property
    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> TraceContext:
        """The place of a new span under this one."""
        return TraceContext(self.trace_id, new_span_id(), self.sampled, self.state)

    def pack(self) -> bytes:
        """All but the state, for a frame: a header of a frame costs ten times as much to write and to read."""
        return bytes.fromhex(self.trace_id + self.span_id) + (b"\1" if self.sampled else b"\0")


def unpack(packed: bytes, state: str = "") -> TraceContext | None:
    """What `pack` has made; None for anything else, as a peer may send."""
    if len(packed) != _PACKED:
        return None
    ids = packed.hex()
    trace_id, span_id = ids[:32], ids[32:48]
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceContext(trace_id, span_id, bool(packed[24] & 1), _clean(state))


def new_span_id() -> str:
    """A random id, never all zeros, which means none."""
    return (_random.getrandbits(64) or 1).to_bytes(8, "big").hex()


def new_trace_id() -> str:
    """Likewise, for a trace."""
    return (_random.getrandbits(128) or 1).to_bytes(16, "big").hex()


def chance() -> float:
    """A random number from 0 to 1."""
    return _random.random()


def parse(traceparent: str | None, tracestate: str = "") -> TraceContext | None:
    """The span that a header names; None where there is none, or none that can be read: then a new trace begins, as
    W3C asks for (https://www.w3.org/TR/trace-context/).
    """
    if not traceparent or _TRACEPARENT.fullmatch(traceparent) is None:
        return None
    trace_id, span_id = traceparent[3:35], traceparent[36:52]
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    if len(traceparent) > _LENGTH and traceparent.startswith("00"):
        return None
    return TraceContext(trace_id, span_id, traceparent[54] in _SAMPLED, _clean(tracestate))


def _clean(tracestate: str) -> str:
    """512 characters must travel, by W3C. What no header can have must not: it would end the header at the next hop."""
    return tracestate if not tracestate or _STATE.fullmatch(tracestate) is not None else ""
