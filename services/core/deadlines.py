"""Time is bounded three ways: to the first byte of an answer, between two bytes, and in total."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from services.core.errors import Reason, ServiceError

HOP: Final = 1.0
"""Seconds by which each hop's bounds are shorter than those of the hop before, so that the inner one reports."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """In seconds."""

    first_byte: float = 600.0
    stall: float = 120.0
    total: float = 3600.0

    def inner(self) -> Bounds:
        """The bounds of the next hop: a little shorter, so that it is the one that reports."""
        first_byte, stall, total = (
            max(bound - HOP, bound * 0.9) for bound in (self.first_byte, self.stall, self.total)
        )
        return Bounds(first_byte, stall, total)

    def within(self, total: float | None, first_byte: float | None) -> Bounds:
        """These bounds, or the caller's where those are shorter."""
        if total is None and first_byte is None:
            return self
        return Bounds(
            min(self.first_byte, first_byte or self.first_byte), self.stall, min(self.total, total or self.total)
        )


class Timer(Protocol):
    """A timer that can be called off."""

    def cancel(self) -> None:
        """Calls it off."""


class Scheduler(Protocol):
    """What a watchdog needs of an event loop."""

    def time(self) -> float:
        """The loop's clock, in seconds."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Calls back at that time."""


class Watchdog:
    """Watches one call, and calls `expired` with the error, once, when a bound is passed.

    Until the first byte it also calls `quiet`, every `quiet_after` seconds.

    One timer per call, which goes off at the earliest bound and is set again then: a byte costs no more than a note of
    the time.
    """

    __slots__ = (
        "_bounds",
        "_expired",
        "_first",
        "_first_from",
        "_last",
        "_paused",
        "_quiet",
        "_quiet_after",
        "_quiet_at",
        "_scheduler",
        "_started",
        "_timer",
    )

    def __init__(
        self,
        scheduler: Scheduler,
        bounds: Bounds,
        expired: Callable[[ServiceError], None],
        *,
        quiet: Callable[[], None] = lambda: None,
        quiet_after: float = math.inf,
    ) -> None:
        self._scheduler = scheduler
        self._bounds = bounds
        self._expired = expired
        self._quiet = quiet
        self._quiet_after = quiet_after
        self._started = self._last = self._first_from = scheduler.time()
        self._quiet_at = self._started + quiet_after
        self._first = False
        self._paused = False
        earliest = min(bounds.first_byte, bounds.stall, bounds.total, quiet_after)
        self._timer = scheduler.call_at(self._started + earliest, self._fire)

    @property
    def remaining(self) -> float:
        """Seconds left in total."""
        return self._started + self._bounds.total - self._scheduler.time()

    @property
    def first_byte_remaining(self) -> float:
        """Seconds left to the first byte."""
        return self._first_from + self._bounds.first_byte - self._scheduler.time()

    def ask_at(self, when: float) -> None:
        """The bound to the first byte counts from `when`, for before that nobody is asked for it; `math.inf` as long as
        that is not known.
        """
        self._first_from = when
        self._reset()

    def quiet_every(self, seconds: float) -> None:
        """Has `quiet` called as often, for a caller who takes silence for failure sooner than others."""
        self._quiet_after = seconds
        self._quiet_at = self._started + seconds
        self._reset()

    def touch(self) -> None:
        """A byte of the answer's body came."""
        self._last = self._scheduler.time()
        self._first = True

    def pause(self, paused: bool) -> None:
        """While the receiver grants no credit, silence is its own doing, and only the total bound holds."""
        if paused is not self._paused:
            self._paused = paused
            self._last = self._scheduler.time()
            if not paused:
                self._reset()

    def close(self) -> None:
        """The call has ended."""
        self._timer.cancel()

    def _reset(self) -> None:
        self._timer.cancel()
        due = self._due()
        if not self._first:
            # A first byte sets no timer: the one that runs must not go off later than a stall that begins now.
            due = min(due, self._scheduler.time() + self._bounds.stall, self._quiet_at)
        self._timer = self._scheduler.call_at(due, self._fire)

    def _due(self) -> float:
        total = self._started + self._bounds.total
        if not self._first:
            return min(total, self._first_from + self._bounds.first_byte)
        return total if self._paused else min(total, self._last + self._bounds.stall)

    def _fire(self) -> None:
        now = self._scheduler.time()
        bounds = self._bounds
        if now < self._due():
            quiet = not self._first and now >= self._quiet_at
            if quiet:
                self._quiet_at = now + self._quiet_after
            self._reset()
            if quiet:
                self._quiet()  # which may end the call
        elif now >= self._started + bounds.total:
            self._expired(ServiceError(Reason.TOTAL_TIMEOUT, f"The call took longer than {bounds.total:g} s in total."))
        elif not self._first:
            message = f"No first byte of the answer came within {bounds.first_byte:g} s."
            self._expired(ServiceError(Reason.FIRST_BYTE_TIMEOUT, message))
        else:
            message = f"The answer stalled: no byte came for {bounds.stall:g} s."
            self._expired(ServiceError(Reason.STALL_TIMEOUT, message))
