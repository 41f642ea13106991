"""What counts one rule of one subject, for all who take from it. Pure: the time is handed in."""

from __future__ import annotations

from typing import Protocol

from services.router.limits.claims import Rule
from services.router.limits.fairness import UnusedShares, fair_room
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

    __slots__ = ("_ahead", "_pruned", "_shares", "_unused", "rule", "users", "window")

    def __init__(self, rule: Rule, ahead: float = 0.0) -> None:
        self.rule = rule
        self.users = 0
        self.window = self._new_window(ahead)
        self._ahead = ahead
        self._shares: dict[str, _Share] = {}
        self._unused = UnusedShares()
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
        share, active = self._shares.get(principal), len(self._shares)
        if share is not None:
            share.window.turn(now)
        mine = share.window.used if share is not None else 0
        kept = limit // (active or 1)
        unused = self._unused.of_all(kept, (one.window.used for one in self._shares.values()))
        if share is not None:
            unused -= max(kept - mine, 0)
        return fair_room(limit, self.window.used, mine, unused, active)

    def take(self, principal: str | None, amount: int, limit: int, now: float) -> int:
        """See `Meter.take`."""
        window = self.window
        if principal is None:
            return window.take(amount, limit, now)
        slot = window.slot_of(now)
        if slot != self._pruned:
            slot = window.turn(now)
            self._prune(slot)
        share = self._shares.get(principal) or self._asking(principal, slot)
        share.asked = slot
        # Whoever keeps the sum within one share takes from nobody; only else the others are looked at.
        if window.used + amount > limit // len(self._shares) and amount > self.room(principal, limit, now):
            return -1
        used = share.window.used
        window.charge_with(share.window, slot, amount)
        self._unused.changed(used, used + amount)
        return slot

    def add(self, principal: str | None, slot: int, amount: int, now: float) -> int:
        """See `Meter.add`."""
        current = self.window.turn(now)
        added = self.window.add(slot, amount)
        if principal is not None and added:
            share = self._shares.get(principal) or self._asking(principal, current)
            used = share.window.used
            share.window.turn(now)
            share.window.add(slot, added)
            self._unused.changed(used, share.window.used)
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
            share.window.turn_to(slot)
            self._unused.forget()
        share.asked = slot
        return share

    def _prune(self, slot: int) -> None:
        """Forgets who has neither asked nor, by a late charge, used anything within the window."""
        self._pruned = slot
        self._unused.forget()
        for principal, share in list(self._shares.items()):
            share.window.turn_to(slot)
            if share.asked < slot - self.rule.slots and not share.window.used:
                del self._shares[principal]

    def _new_window(self, ahead: float) -> Window:
        return Window(self.rule.window, self.rule.slots, ahead)
