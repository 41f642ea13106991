"""What counts open calls, for all who take from one rule of one subject. Pure: the time is handed in."""

from __future__ import annotations

from typing import Final

from services.router.limits.claims import Rule
from services.router.limits.fairness import UnusedShares, fair_room

_PRUNED_EVERY: Final = 1.0
"""Seconds for which whoever is no longer active may still count as such."""


class CallMeter:
    """Counts calls that are open; see `Meter`. There are no slots: what is taken stays until it is given back."""

    __slots__ = ("_asked", "_open", "_pruned", "_total", "_unused", "rule", "users")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.users = 0
        self._total = 0
        self._open: dict[str, int] = {}
        self._asked: dict[str, float] = {}
        self._unused = UnusedShares()
        self._pruned = float("-inf")

    def room(self, principal: str | None, limit: int, now: float) -> int:
        """See `Meter.room`."""
        if principal is not None:
            self._asking(principal, now)
        return self.look(principal, limit, now)

    def look(self, principal: str | None, limit: int, now: float) -> int:
        """See `Meter.look`."""
        if principal is None:
            return max(limit - self._total, 0)
        if now >= self._pruned + _PRUNED_EVERY:
            self._prune(now)
        active, mine = len(self._asked), self._open.get(principal, 0)
        kept = limit // (active or 1)
        unused = self._unused.of_all(kept, (self._open.get(name, 0) for name in self._asked))
        if principal in self._asked:
            unused -= max(kept - mine, 0)
        return fair_room(limit, self._total, mine, unused, active)

    def take(self, principal: str | None, amount: int, limit: int, now: float) -> int:
        """See `Meter.take`."""
        if principal is None:
            if self._total + amount > limit:
                return -1
            self._total += amount
            return 0
        self._asking(principal, now)
        if self._total + amount > limit // len(self._asked) and amount > self.room(principal, limit, now):
            return -1
        self._total += amount
        mine = self._open.get(principal, 0)
        self._open[principal] = mine + amount
        self._unused.changed(mine, mine + amount)
        return 0

    def add(self, principal: str | None, slot: int, amount: int, now: float) -> int:
        """See `Meter.add`."""
        mine = self._total if principal is None else self._open.get(principal, 0)
        amount = max(amount, -mine)
        self._total += amount
        if principal is not None:
            self._open[principal] = mine + amount
            if principal in self._asked:
                self._unused.changed(mine, mine + amount)
            elif amount > 0:
                self._asking(principal, now)
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

    def _asking(self, principal: str, now: float) -> None:
        if principal not in self._asked:
            self._unused.forget()
        self._asked[principal] = now

    def _prune(self, now: float) -> None:
        """Forgets who neither has any open nor asked lately."""
        self._pruned = now
        self._unused.forget()
        for name, asked in list(self._asked.items()):
            if asked < now - self.rule.window and not self._open.get(name):
                self._asked.pop(name)
                self._open.pop(name, None)
