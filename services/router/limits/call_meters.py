"""What counts open calls, for all who take from one rule of one subject. Pure: the time is handed in."""

from __future__ import annotations

from services.router.limits.claims import Rule
from services.router.limits.fairness import fair_room


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
        if self._total + amount > limit // len(self._asked) and amount > self.room(principal, limit, now):
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
