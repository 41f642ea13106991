"""Many of the same within a minute: told once at once, and then as a number."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

WINDOW: Final = 60.0
"""Seconds in which the same is summed up."""
MOST: Final = 1000
"""Different things within a window; beyond, they are only counted."""

Thing = TypeVar("Thing", bound=Hashable)


@dataclass(slots=True)
class _Count:
    since: float
    more: int = 0


class Floods(Generic[Thing]):
    """Says what is to be told. Its memory is bounded, whatever comes. Times are in seconds of any clock."""

    def __init__(self) -> None:
        self._counts: dict[Thing, _Count] = {}
        self._others = _Count(0.0)

    def note(self, thing: Thing, now: float) -> bool:
        """Whether it is to be told now; else it is counted."""
        if (count := self._counts.get(thing)) is not None:
            count.more += 1
            return False
        if len(self._counts) < MOST:
            self._counts[thing] = _Count(now)
            return True
        if not self._others.more:
            self._others.since = now
        self._others.more += 1
        return False

    def due(self, now: float) -> tuple[list[tuple[Thing, int]], int]:
        """What was counted in windows that are over, each with how often beyond the first; and how many there were of
        others, which stood nowhere.
        """
        told: list[tuple[Thing, int]] = []
        for thing, count in tuple(self._counts.items()):  # in the order of their beginning
            if count.since + WINDOW > now:
                break
            del self._counts[thing]
            if count.more:
                told.append((thing, count.more))
        others = 0
        if self._others.more and self._others.since + WINDOW <= now:
            others, self._others = self._others.more, _Count(now)
        return told, others
