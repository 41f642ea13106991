"""A sliding window in slots. Pure: the time is handed in."""

from __future__ import annotations

import math
from collections.abc import Iterator


class Window:
    """What was charged within the last `slots` whole slots and the one that runs.

    A slot leaves the sum only when all of it is older than the window, so that no interval of the window's length ever
    sees more than `used` was allowed to be; what was charged stays for one slot longer than it must. Slots up to
    `ahead` seconds in the future may be charged too, by leases that end then.
    """

    __slots__ = ("_newest", "_ring", "_size", "last", "slots", "used", "width")

    def __init__(self, window: float, slots: int, ahead: float = 0.0) -> None:
        self.width = window / slots
        self.slots = slots
        self.used = 0
        self.last = -1
        """The latest slot that was charged."""
        self._size = slots + 1 + (math.ceil(ahead / self.width) + 1 if ahead else 0)
        self._ring = [0] * self._size
        self._newest = -1

    def slot_of(self, now: float) -> int:
        """The slot of a time."""
        return int(now / self.width)

    def turn(self, now: float) -> int:
        """The slot that runs; what is too old leaves the sum. A clock that goes back stands still."""
        return self.turn_to(self.slot_of(now))

    def turn_to(self, slot: int) -> int:
        """The same, where the slot is known: from its time it could be reckoned one too low."""
        if slot <= self._newest:
            return self._newest
        if self.used:
            oldest = self._newest - self.slots
            gone = min(slot - self._newest, self._size)
            for old in range(oldest, oldest + gone):
                index = old % self._size
                self.used -= self._ring[index]
                self._ring[index] = 0
        self._newest = slot
        return slot

    def add(self, slot: int, amount: int) -> int:
        """Charges a slot, or with a negative amount gives back what was charged to it; after `turn`.

        Returns what was added: nothing of a slot that counts no longer, and no more is given back than it holds.
        """
        if not 0 <= slot - self._newest + self.slots < self._size:
            return 0
        index = slot % self._size
        there = self._ring[index]
        if there < -amount:
            amount = -there
        self._ring[index] = there + amount
        self.used += amount
        if slot > self.last:
            self.last = slot
        return amount

    def take(self, amount: int, limit: int, now: float) -> int:
        """Charges the slot that runs, if that keeps within the limit; the slot, or -1. Nothing can always be had."""
        slot = int(now / self.width)
        if slot != self._newest:
            slot = self.turn(now)
        used = self.used + amount
        if used > limit and amount:
            return -1
        self.used = used
        self._ring[slot % self._size] += amount
        if slot > self.last:
            self.last = slot
        return slot

    def charge_with(self, part: Window, slot: int, amount: int) -> None:
        """Charges the slot that runs of this window and of one like it, both turned to it: in one go, as the two stand
        on the path of every call with a shared limit.
        """
        index = slot % self._size
        self.used += amount
        self._ring[index] += amount
        part.used += amount
        part._ring[index] += amount
        if slot > self.last:
            self.last = slot
        part.last = slot

    def wait(self, amount: int, now: float) -> float:
        """Seconds until so much of what is charged now will have left the window."""
        newest = self.turn(now)
        left = amount
        for slot in range(newest - self.slots, newest - self.slots + self._size):
            if left <= 0:
                break
            left -= self._ring[slot % self._size]
            leaves = (slot + 1 + self.slots) * self.width
        return max(leaves - now, 0.0) if amount > 0 else 0.0

    def reset(self, now: float) -> float:
        """Seconds until everything that is charged will have left the window."""
        self.turn(now)
        return max((self.last + 1 + self.slots) * self.width - now, 0.0) if self.used else 0.0

    def charged(self) -> Iterator[tuple[int, int]]:
        """The slots that hold something, oldest first."""
        first = self._newest - self.slots
        for slot in range(first, first + self._size):
            if amount := self._ring[slot % self._size]:
                yield slot, amount
