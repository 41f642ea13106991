"""What counts one rule of one subject, for all who take from it. Pure: the time is handed in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol

from services.router.limits.claims import Kind, Rule
from services.router.limits.fairness import fair_room
from services.router.limits.windows import Window


class Meter(Protocol):
    """Counts for one rule of one subject. What is taken never exceeds the limit that the taker names.

    `principal` is who takes of a meter that several share, which is fair between them (`fairness.py`): active is who
    asked within the window. None is who takes alone.
    """

    rule: Rule
    users: int
    """Who holds on to it; it is forgotten when nobody does and it holds nothing."""

    def room(self, principal: str | None, limit: int, now: float) -> int:
        """What may be taken at most. Who asks is active from now on."""
        ...

    def look(self, principal: str | None, limit: int, now: float) -> int:
        """The same, without asking for any."""
        ...

    def take(self, principal: str | None, amount: int, limit: int, now: float) -> int:
        """Charges the slot that runs if there is room, and returns it; else -1."""
        ...

    def add(self, principal: str | None, slot: int, amount: int, now: float) -> int:
        """Charges a slot whatever the limit, or gives back to it what still counts; returns what was added."""
        ...

    def charge(self, principal: str | None, amount: int, now: float) -> None:
        """Charges the slot that runs, whatever the limit."""
        ...

    def wait(self, principal: str | None, amount: int, limit: int, now: float) -> float:
        """Seconds until there may be room, as far as can be known; 0 if there is."""
        ...

    def reset(self, now: float) -> float:
        """Seconds until nothing is charged, if nobody takes more."""
        ...

    def used(self, now: float) -> int:
        """What is charged."""
        ...


class _Share:
    """One principal's part of a meter, and the slot in which it last asked."""

    __slots__ = ("asked", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.asked = -1


class WindowMeter:
    """Counts requests or tokens within a window; see `Meter`."""

    __slots__ = ("_ahead", "_pruned", "_shares", "rule", "users", "window")

    def __init__(self, rule: Rule, ahead: float = 0.0) -> None:
        self.rule = rule
        self.users = 0
        self.window = self._new_window(ahead)
        self._ahead = ahead
        self._shares: dict[str, _Share] = {}
        self._pruned = -1

    def room(self, principal: str | None, limit: int, now: float) -> int:
        """See `Meter.room`."""
        if principal is not None:
            self._asking(principal, self.window.turn(now))
        return self.look(principal, limit, now)

    def look(self, principal: str | None, limit: int, now: float) -> int:
        """See `Meter.look`."""
        slot = self.window.turn(now)
        if principal is None:
            return max(limit - self.window.used, 0)
        if slot != self._pruned:
            self._prune(slot)
        share = self._shares.get(principal)
        mine = share.window.used if share is not None and share.window.turn(now) >= 0 else 0
        return fair_room(limit, self.window.used, mine, self._others(share, now), len(self._shares))

    def take(self, principal: str | None, amount: int, limit: int, now: float) -> int:
        """See `Meter.take`."""
        window = self.window
        if principal is None:
            return window.take(amount, limit, now)
        share = self._asking(principal, window.turn(now))
        active = len(self._shares)
        # Whether it is enough although the others had used nothing of their shares; only else they are looked at.
        kept = limit - limit // active if active > 1 else 0
        if window.used + amount + kept > limit and amount > self.room(principal, limit, now):
            return -1
        share.window.take(amount, sys.maxsize, now)
        return window.take(amount, limit, now)

    def add(self, principal: str | None, slot: int, amount: int, now: float) -> int:
        """See `Meter.add`."""
        current = self.window.turn(now)
        added = self.window.add(slot, amount)
        if principal is not None and added:
            share = self._shares.get(principal) or self._asking(principal, current)
            share.window.turn(now)
            share.window.add(slot, added)
        return added

    def charge(self, principal: str | None, amount: int, now: float) -> None:
        """See `Meter.charge`."""
        self.add(principal, self.window.turn(now), amount, now)

    def wait(self, principal: str | None, amount: int, limit: int, now: float) -> float:
        """See `Meter.wait`."""
        return self.window.wait(amount - self.room(principal, limit, now), now)

    def reset(self, now: float) -> float:
        """See `Meter.reset`."""
        return self.window.reset(now)

    def used(self, now: float) -> int:
        """See `Meter.used`."""
        self.window.turn(now)
        return self.window.used

    def _asking(self, principal: str, slot: int) -> _Share:
        if slot != self._pruned:
            self._prune(slot)
        share = self._shares.get(principal)
        if share is None:
            share = self._shares[principal] = _Share(self._new_window(self._ahead))
        share.asked = slot
        return share

    def _others(self, mine: _Share | None, now: float) -> Iterator[int]:
        for share in self._shares.values():
            if share is not mine:
                share.window.turn(now)
                yield share.window.used

    def _prune(self, slot: int) -> None:
        """Forgets who has neither asked nor, by a late charge, used anything within the window."""
        self._pruned = slot
        now = slot * self.window.width
        for principal, share in list(self._shares.items()):
            share.window.turn(now)
            if share.asked < slot - self.rule.slots and not share.window.used:
                del self._shares[principal]

    def _new_window(self, ahead: float) -> Window:
        return Window(self.rule.window, self.rule.slots, ahead)


class CallMeter:
    """Counts calls that are open; see `Meter`. There are no slots: what is taken stays until it is given back."""

    __slots__ = ("_asked", "_open", "_total", "rule", "users")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.users = 0
        self._total = 0
        self._open: dict[str, int] = {}
        self._asked: dict[str, float] = {}

    def room(self, principal: str | None, limit: int, now: float) -> int:
        """See `Meter.room`."""
        if principal is not None:
            self._asked[principal] = now
        return self.look(principal, limit, now)

    def look(self, principal: str | None, limit: int, now: float) -> int:
        """See `Meter.look`."""
        if principal is None:
            return max(limit - self._total, 0)
        others = self._others(principal, now)
        return fair_room(limit, self._total, self._open.get(principal, 0), others, len(self._asked))

    def take(self, principal: str | None, amount: int, limit: int, now: float) -> int:
        """See `Meter.take`."""
        if principal is None:
            if self._total + amount > limit:
                return -1
            self._total += amount
            return 0
        self._asked[principal] = now
        active = len(self._asked)
        kept = limit - limit // active if active > 1 else 0
        if self._total + amount + kept > limit and amount > self.room(principal, limit, now):
            return -1
        self._total += amount
        self._open[principal] = self._open.get(principal, 0) + amount
        return 0

    def add(self, principal: str | None, slot: int, amount: int, now: float) -> int:
        """See `Meter.add`."""
        mine = self._total if principal is None else self._open.get(principal, 0)
        amount = max(amount, -mine)
        self._total += amount
        if principal is not None:
            self._open[principal] = mine + amount
            if amount > 0:
                self._asked.setdefault(principal, now)
        return amount

    def charge(self, principal: str | None, amount: int, now: float) -> None:
        """See `Meter.charge`."""
        self.add(principal, 0, amount, now)

    def wait(self, principal: str | None, amount: int, limit: int, now: float) -> float:
        """See `Meter.wait`. Nobody knows when a call will end."""
        return 0.0 if amount <= self.room(principal, limit, now) else 1.0

    def reset(self, now: float) -> float:
        """See `Meter.reset`."""
        return 0.0

    def used(self, now: float) -> int:
        """See `Meter.used`."""
        return self._total

    def _others(self, principal: str, now: float) -> list[int]:
        """What each of the other active ones has open; forgets who neither has any nor asked lately."""
        for name, asked in list(self._asked.items()):
            if asked < now - self.rule.window and not self._open.get(name):
                self._asked.pop(name)
                self._open.pop(name, None)
        return [self._open.get(name, 0) for name in self._asked if name != principal]


def meter_of(rule: Rule, ahead: float = 0.0) -> Meter:
    """A new meter for a rule; `ahead` is how far in the future leases may charge it."""
    return CallMeter(rule) if rule.kind is Kind.CALLS else WindowMeter(rule, ahead)
