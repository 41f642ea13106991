"""Limits that several routers share: from purses, which a store fills; without it, from this router's part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from services.core.errors import Reason, ServiceError
from services.router.limits.account import Account
from services.router.limits.claims import Claim, Rule, is_shared, rules_of_claims
from services.router.limits.counters import Counter
from services.router.limits.desk import Desk
from services.router.limits.exchange import HEARTBEAT, LEASE_LIFE, QuotaStore, StoreAwayError
from services.router.limits.memory import Books
from services.router.limits.metrics import LEASED
from services.router.limits.purses import Ground, Purse
from services.router.limits.refusals import Shortage
from services.router.limits.source import Fetched


class SharedSource:
    """See `Source`. `share`: whether this router goes on with its part while the store is away; `routers`: into how
    many parts at least; `offset`: how far the store's clock may be ahead of ours, until it says.
    """

    final: Final = False

    def __init__(
        self,
        store: QuotaStore,
        router: str,
        clock: Callable[[], float],
        *,
        share: bool = True,
        routers: int = 1,
        offset: float = 0.0,
    ) -> None:
        self._clock = clock
        self._share = share
        self._routers = routers
        self._purses: dict[tuple[str, Rule, str], Purse] = {}
        self._grounds: dict[tuple[str, str], Ground] = {}
        self._books = Books(ahead=LEASE_LIFE)
        self.desk = Desk(store, router, clock, lambda: list(self._purses.values()), offset)

    def __len__(self) -> int:
        return len(self._purses)

    def start(self) -> None:
        """See `Source.start`."""
        LEASED.set_function(lambda: sum(purse.leased for purse in self._purses.values()))
        self.desk.start()

    async def close(self) -> None:
        """See `Source.close`."""
        await self.desk.close()

    def counters(self, claims: tuple[Claim, ...], principal: str) -> tuple[Counter, ...]:
        """See `Source.counters`."""
        return tuple(self._purse(subject, rule, principal) for subject, rule in rules_of_claims(claims))

    async def fetch(self, account: Account, tokens: int) -> Fetched:
        """See `Source.fetch`."""
        now = self._clock()
        needs: list[tuple[Purse, int]] = []
        for purse in account.counters:
            assert isinstance(purse, Purse)
            needs.append((purse, tokens if purse.counts_tokens else 1))
        if self.desk.away:
            return self._without(needs)
        for purse, amount in needs:
            purse.asks(amount, now)
        try:
            found = await self.desk.ask(needs)
        except StoreAwayError:
            return self._without(needs)
        slots = [slot for slot in found if isinstance(slot, int)]
        amounts = dict(needs)
        lacks = [lack for lack in found if not isinstance(lack, int)]
        return Fetched(
            slots,
            [Shortage(purse.subject, purse.rule, amounts[purse], lack.room, lack.wait) for purse, lack in lacks],
        )

    def sweep(self, now: float) -> None:
        """See `Source.sweep`."""
        store_now = self.desk.store_time(now)
        for key, purse in list(self._purses.items()):
            purse.prune(store_now)
            if purse.idle:
                del self._purses[key]
                purse.ground.meter.users -= 1
        for place, ground in list(self._grounds.items()):
            if not ground.meter.users:
                del self._grounds[place]
        self._books.sweep(store_now)

    def _purse(self, subject: str, rule: Rule, principal: str) -> Purse:
        who = principal if is_shared(subject, principal) else ""
        purse = self._purses.get((subject, rule, who))
        if purse is None:
            ground = self._grounds.get((subject, rule.key))
            if ground is None:
                ground = self._grounds[subject, rule.key] = Ground(self._books.meter(subject, rule))
            ground.meter.users += 1
            purse = self._purses[subject, rule, who] = Purse(subject, rule, who, ground, self.desk)
        purse.users += 1
        return purse

    def _without(self, needs: list[tuple[Purse, int]]) -> Fetched:
        """Admits from this router's part of each limit, while the store is away."""
        if not self._share:
            raise ServiceError(Reason.LIMITS_UNAVAILABLE, retry_after=HEARTBEAT)
        now = self._clock()
        store_now = self.desk.store_time(now)
        short: list[Shortage] = []
        for purse, amount in needs:
            part, who, meter = self._part(purse, now), purse.principal or None, purse.ground.meter
            room = part - purse.ground.open if purse.counts_calls else meter.room(who, part, store_now)
            if amount > room:
                wait = HEARTBEAT if purse.counts_calls else max(meter.wait(who, amount, part, store_now), HEARTBEAT)
                short.append(Shortage(purse.subject, purse.rule, amount, room, wait))
        if short:
            return Fetched([], short)
        slots: list[int] = []
        for purse, amount in needs:
            if purse.counts_calls:
                purse.held += amount
                purse.begin(amount)
                slots.append(0)
                continue
            who, part = purse.principal or None, self._part(purse, now)
            slots.append(purse.ground.meter.take(who, amount, part, store_now))
            purse.change(slots[-1], amount)
        return Fetched(slots, [])

    def _part(self, purse: Purse, now: float) -> int:
        """What this router may give: its part of what the store last said was left, and of all after a window."""
        heard_of = now - self.desk.away_since < purse.rule.window + purse.width and not purse.counts_calls
        left = purse.rule.limit - (purse.ground.used if heard_of else 0)
        return max(left, 0) // max(self.desk.routers, self._routers)
