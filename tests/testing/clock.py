"""Time in the hands of a test: a scheduler whose clock is turned by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Timer:
    when: float
    callback: Callable[[], None]
    off: bool = False

    def cancel(self) -> None:
        self.off = True


class Clock:
    """A `Scheduler` of `services.core.deadlines`. Time passes in `advance` alone."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[_Timer] = []

    def time(self) -> float:
        """See `Scheduler.time`."""
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        """See `Scheduler.call_at`."""
        timer = _Timer(when, callback)
        self._timers.append(timer)
        return timer

    @property
    def timers(self) -> int:
        """Timers that are set."""
        return sum(not timer.off for timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Lets time pass; calls back what becomes due, each at its time."""
        until = self.now + seconds
        while due := [timer for timer in self._timers if not timer.off and timer.when <= until]:
            timer = min(due, key=lambda timer: timer.when)
            self._timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
        self.now = until
