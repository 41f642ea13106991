"""What a router has at hand of a rule that it shares with other routers: leases of quota, places for open calls."""

from __future__ import annotations

from typing import Final, Protocol

from services.router.limits.claims import Kind, Rule
from services.router.limits.exchange import Grant, Hold, lease_life
from services.router.limits.meters import Meter

RECENTLY: Final = 4.0
"""Whoever asks the store again within so many seconds is given a lease."""


class Desk(Protocol):
    """Where purses are filled; see `desk.py`."""

    def note(self, purse: Purse) -> None:
        """The purse has something to tell the store, or wants something from it, without hurry."""
        ...

    def store_time(self, now: float) -> float:
        """The store's clock, as far as it is known, at a time of the loop's."""
        ...


class Ground:
    """What this router knows of a rule of a subject for all principals: what the store last said, and what is taken
    without the store, while that is away.
    """

    __slots__ = ("meter", "open", "used")

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.used = 0
        self.open = 0
        """Calls of this router."""


class Purse:
    """One principal's hold on one rule; see `Counter`.

    Of tokens and requests it holds one lease at most, charged to the slot in which it ends: whatever of it is spent
    later than it was granted is then charged no earlier than it was spent. All that it was charged it remembers as long
    as that counts, to tell it to a store that has forgotten.
    """

    __slots__ = (
        "_asked",
        "_block",
        "_desk",
        "_ends",
        "_left",
        "_low",
        "_room",
        "_slot",
        "_told_at",
        "changes",
        "charged",
        "counts_calls",
        "counts_tokens",
        "ground",
        "held",
        "key",
        "life",
        "open",
        "principal",
        "rule",
        "subject",
        "users",
        "width",
    )

    def __init__(self, subject: str, rule: Rule, principal: str, ground: Ground, desk: Desk) -> None:
        self.subject = subject
        self.rule = rule
        self.principal = principal
        self.ground = ground
        self.key = f"{subject} {rule.key}"
        self.counts_tokens = rule.counts_tokens
        self.counts_calls = rule.kind is Kind.CALLS
        self.width = rule.window / rule.slots
        self.life = lease_life(rule.window)
        self.users = 0
        self.charged: dict[int, int] = {}
        """What the store has charged to slots, as far as it has said so."""
        self.changes: dict[int, int] = {}
        """What it is still to be told."""
        self.held = self.open = 0
        self._desk = desk
        self._slot = -1
        self._left = self._low = 0
        self._ends = 0.0
        self._block = 0
        self._asked = float("-inf")
        self._room = rule.limit
        self._told_at = float("-inf")

    def take(self, amount: int, now: float) -> int:
        """See `Counter.take`."""
        if self.counts_calls:
            if self.open >= self.held:
                return -1
            self.begin(1)
            return 0
        if amount > self._left or now >= self._ends:
            return 0 if amount == 0 else -1
        self._left -= amount
        if self._left < self._low:
            self._low = 0
            self._asked = now  # soon
            self._desk.note(self)
        return self._slot

    def at_hand(self, now: float) -> int:
        """What can be taken without asking."""
        if self.counts_calls:
            return self.held - self.open
        return self._left if now < self._ends else 0

    def give_back(self, slot: int, amount: int, now: float) -> None:
        """See `Counter.give_back`."""
        if self.counts_calls:
            self.begin(-amount)
            self._desk.note(self)
            return
        if slot == self._slot and now < self._ends:
            self._left += amount
        else:
            self.change(slot, -amount)
        self.ground.meter.add(self.principal or None, slot, -amount, self._desk.store_time(now))

    def begin(self, calls: int) -> None:
        """So many calls have begun, or (negative) ended."""
        self.open += calls
        self.ground.open += calls

    def owe(self, amount: int, now: float) -> None:
        """See `Counter.owe`."""
        self.change(int(self._desk.store_time(now) / self.width), amount)

    def room(self, now: float) -> int:
        """See `Counter.room`."""
        fresh = now - self._told_at < RECENTLY  # else the store may have more, and decides
        return min(self.at_hand(now) + self._room, self.rule.limit) if fresh else self.rule.limit

    def wait(self, amount: int, now: float) -> float:
        """See `Counter.wait`."""
        return 0.0 if amount <= self.room(now) else self.width

    def reset(self, now: float) -> float:
        """See `Counter.reset`."""
        return self.rule.window if self.ground.used and not self.counts_calls else 0.0

    def let_go(self) -> None:
        """See `Counter.let_go`."""
        self.users -= 1

    def change(self, slot: int, amount: int) -> None:
        """Notes what the store is to be told."""
        self.changes[slot] = self.changes.get(slot, 0) + amount
        self._desk.note(self)

    def asks(self, amount: int, now: float) -> None:
        """The store is to be asked, for a call that had not everything at hand. The more often that is so, the larger
        the next lease. The present one goes back with the question, as the call may need even that.
        """
        self.expire()
        self._block = max(amount, self._block * 2) if now - self._asked < RECENTLY else 0
        self._block = min(self._block, self.rule.limit)
        self._asked = now

    def hold(self, now: float) -> Hold:
        """What is said of it to the store; what it need not keep is given up with that."""
        if self._left and now >= self._ends:
            self.changes[self._slot] = self.changes.get(self._slot, 0) - self._left
            self._left = 0
        block = self._block if now - self._asked < RECENTLY else 0
        spare = self._left
        if self.counts_calls:
            spare = min(self.held - self.open, block)
            self.held = self.open + spare
        want = block if spare * 2 < block else 0
        slots = 0 if self.counts_calls else self.rule.slots
        changes = [change for change in self.changes.items() if change[1]]
        self.changes.clear()
        return Hold(
            self.key, self.principal, self.rule.limit, self.rule.window, slots, self.held, want, self.life, changes
        )

    def expire(self) -> None:
        """The lease is given back: what is left of it leaves the slot that it was charged to."""
        self.held = self.open
        if self._left:
            self.change(self._slot, -self._left)
        self._left = self._low = 0

    def grant(self, grant: Grant, sent: float) -> None:
        """What the store said of it, asked at `sent`, from when the lease's life is reckoned: it ends here first."""
        self._room, self._told_at = grant.room, sent
        self.ground.used = grant.used
        if not grant.leased:
            return
        if self.counts_calls:
            self.held += grant.leased
            return
        if self._left:
            self.change(self._slot, -self._left)
        self.book(grant.slot, grant.leased)
        self._slot, self._left, self._ends = grant.slot, grant.leased, sent + self.life
        self._low = grant.leased // 2

    def book(self, slot: int, amount: int) -> None:
        """The store has charged so much, for a call or for a lease; or so many places."""
        if self.counts_calls:
            self.held += amount
        else:
            self.charged[slot] = self.charged.get(slot, 0) + amount

    def retire(self) -> None:
        """Its router ends: what is at hand is given back, and nothing more is wanted."""
        self.expire()
        self._asked = float("-inf")
        self._desk.note(self)

    @property
    def leased(self) -> bool:
        """Whether it has something at hand that others could use."""
        return self._left > 0 or self.held > self.open

    def due(self, now: float) -> bool:
        """Whether the store is to hear of it at least once in a heartbeat: open calls are, ended leases."""
        return bool(self.held or self.open) or (self._left > 0 and now >= self._ends)

    def told(self, changes: list[tuple[int, int]]) -> None:
        """The store has taken these changes; what counts no longer is forgotten."""
        for slot, amount in changes:
            self.charged[slot] = self.charged.get(slot, 0) + amount

    def unsure(self, changes: list[tuple[int, int]]) -> None:
        """The store may have taken these changes. Charges are told again, what was given back is not: rather twice
        charged than twice given back.
        """
        for slot, amount in changes:
            if amount > 0:
                self.change(slot, amount)

    def forgotten(self) -> None:
        """The store has begun anew: it is to be told of everything that was charged."""
        for slot, amount in self.charged.items():
            self.changes[slot] = self.changes.get(slot, 0) + amount
        self.charged.clear()
        self._desk.note(self)

    def prune(self, store_now: float) -> None:
        """Forgets what has left the window."""
        oldest = int(store_now / self.width) - self.rule.slots
        for ledger in (self.charged, self.changes):
            for slot in [slot for slot in ledger if slot < oldest]:
                del ledger[slot]

    @property
    def idle(self) -> bool:
        """Whether nothing depends on it."""
        return not (self.users or self.open or self.held or self.charged or self.changes or self._left)
