"""What one end of a multiplexed stream bears, and what happens to a peer that goes beyond it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

INLINE_BODY_BYTES: Final = 64 * 1024
"""A request body up to this size travels in the frame that opens its call."""

MAX_CREDIT: Final = 4 * 1024 * 1024
"""The most that is passed on to a callee at once; the rest of a larger grant follows with the next message."""


@dataclass(frozen=True, slots=True)
class MuxLimits:
    """Sizes are in bytes."""

    max_calls: int = 4096
    """Calls that the peer may have open here; one more is refused as OVERLOADED."""
    max_body: int = 32 * 1024 * 1024
    """The largest request body."""
    body_credit: int = 256 * 1024
    """What the peer may send of each request body before it is granted more."""
    max_buffered_bodies: int = 256 * 1024 * 1024
    """Request bodies that are not complete yet, of all calls together."""
    outbox_soft: int = 32 * 1024 * 1024
    """Answer bytes that wait to be sent; above it, grants are withheld, so that the calls behind pause."""
    outbox_hard: int = 256 * 1024 * 1024
    """Above it the peer is taken to grant credit without reading, and its stream ends."""
    max_waiting: int = 256 * 1024
    """Frames without data (pongs, credits, refusals) that may wait to be sent; beyond it, the peer's stream ends."""


DEFAULT_LIMITS: Final = MuxLimits()


class ProtocolViolationError(Exception):
    """The peer broke the protocol; its stream must end."""
