"""The store that routers share, in the memory of one process: what `exchange.lua` does, easier to reason about."""

from __future__ import annotations

from collections.abc import Callable

from services.router.limits.claims import Kind, Rule
from services.router.limits.exchange import (
    LEASE_LIFE,
    LEASE_PART,
    QUIET,
    ROUTER_LIFE,
    Answer,
    Exchange,
    Grant,
    Hold,
    Lack,
)
from services.router.limits.memory import Books
from services.router.limits.meters import Meter


class MemoryStore:
    """See `QuotaStore`. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float], *, quiet: float = QUIET) -> None:
        self._clock = clock
        self._quiet = quiet
        self._begun = 0
        self.forget()

    def forget(self) -> None:
        """Begins anew, empty."""
        self._begun += 1
        self._grants_from = self._clock() + self._quiet
        self._books = Books(ahead=LEASE_LIFE)
        self._seen: dict[str, float] = {}
        self._numbers: dict[str, int] = {}
        self._held: dict[tuple[str, str, str], tuple[int, Meter]] = {}
        """Open calls, by router, key and principal."""

    async def exchange(self, exchange: Exchange) -> Answer:
        """See `QuotaStore.exchange`."""
        return self.answer(exchange)

    async def close(self) -> None:
        """See `QuotaStore.close`."""

    def answer(self, exchange: Exchange) -> Answer:
        """The same, at once."""
        now = self._clock()
        epoch = str(self._begun)
        self._end_routers(now)
        known = exchange.epoch in ("", epoch) and exchange.number > self._numbers.get(exchange.router, -1)
        if exchange.leaving:
            self._seen.pop(exchange.router, None)
        else:
            self._seen[exchange.router] = now
        quiet = max(self._grants_from - now, 0.0)
        answer = Answer(epoch, now, len(self._seen), quiet, known, [], [])
        if not known:
            return answer
        self._numbers[exchange.router] = exchange.number
        meters = [self._meter(hold) for hold in exchange.holds]
        for hold, meter in zip(exchange.holds, meters, strict=True):
            self._change(exchange.router, hold, meter, now)
        if not quiet:
            answer.calls.extend(self._call(exchange, needs, meters, now) for needs in exchange.calls)
        for hold, meter in zip(exchange.holds, meters, strict=True):
            answer.grants.append(self._grant(exchange.router, hold, meter, now, lease=not quiet))
        return answer

    def used(self, key: str, rule: Rule) -> int:
        """What is charged at present."""
        return self._books.meter(key, rule).used(self._clock())

    def _meter(self, hold: Hold) -> Meter:
        kind = Kind.MINUTE if hold.slots else Kind.CALLS
        return self._books.meter(hold.key, Rule(kind, hold.limit, hold.window, hold.slots))

    def _change(self, router: str, hold: Hold, meter: Meter, now: float) -> None:
        who = hold.principal or None
        for slot, amount in hold.changes:
            meter.add(who, slot, amount, now)
        if not hold.slots:
            place = (router, hold.key, hold.principal)
            there, _ = self._held.get(place, (0, meter))
            meter.add(who, 0, hold.held - there, now)
            self._hold(router, hold, meter, hold.held)

    def _call(
        self, exchange: Exchange, needs: list[tuple[int, int]], meters: list[Meter], now: float
    ) -> list[int] | list[Lack]:
        lacks: list[Lack] = []
        for at, amount in needs:
            hold, meter = exchange.holds[at], meters[at]
            room = meter.room(hold.principal or None, hold.limit, now)
            if amount > room:
                lacks.append(Lack(at, room, meter.wait(hold.principal or None, amount, hold.limit, now)))
        if lacks:
            return lacks
        slots: list[int] = []
        for at, amount in needs:
            hold, meter = exchange.holds[at], meters[at]
            slots.append(meter.take(hold.principal or None, amount, hold.limit, now))
            self._hold_more(exchange.router, hold, meter, amount)
        return slots

    def _grant(self, router: str, hold: Hold, meter: Meter, now: float, *, lease: bool) -> Grant:
        who = hold.principal or None
        room = meter.look(who, hold.limit, now)
        leased = min(hold.want, hold.limit // LEASE_PART, room // 4) if lease else 0
        slot = int((now + hold.life) * hold.slots / hold.window)
        if leased:
            meter.add(who, slot, leased, now)
            self._hold_more(router, hold, meter, leased)
        return Grant(meter.used(now), room - leased, leased, slot)

    def _hold_more(self, router: str, hold: Hold, meter: Meter, amount: int) -> None:
        if not hold.slots:
            there, _ = self._held.get((router, hold.key, hold.principal), (0, meter))
            self._hold(router, hold, meter, there + amount)

    def _hold(self, router: str, hold: Hold, meter: Meter, held: int) -> None:
        place = (router, hold.key, hold.principal)
        if held:
            self._held[place] = (held, meter)
        else:
            self._held.pop(place, None)

    def _end_routers(self, now: float) -> None:
        """The calls of a router that is not heard of are taken for ended."""
        for router, seen in list(self._seen.items()):
            if seen < now - ROUTER_LIFE:
                del self._seen[router]
        for place, (held, meter) in list(self._held.items()):
            if place[0] not in self._seen:
                del self._held[place]
                meter.add(place[2] or None, 0, -held, now)
