"""Routers that share a store, without their background tasks: a test turns the clock, and says when they ask."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from services.core.errors import ServiceError
from services.router.limits.claims import Claim
from services.router.limits.exchange import HEARTBEAT, Answer, Exchange, QuotaStore, StoreAwayError
from services.router.limits.limiter import Admission, Limiter
from services.router.limits.memory_store import MemoryStore
from services.router.limits.shared import SharedSource
from tests.testing.clock import Clock


class FlakyStore:
    """A store that can be away; `loses` says that it hears questions, but its answers are lost."""

    def __init__(self, store: QuotaStore) -> None:
        self.away = False
        self.loses = False
        self._store = store

    async def exchange(self, exchange: Exchange) -> Answer:
        """See `QuotaStore.exchange`."""
        if self.away:
            raise StoreAwayError("connection refused")
        answer = await self._store.exchange(exchange)
        if self.loses:
            raise StoreAwayError("timeout")
        return answer

    async def close(self) -> None:
        """See `QuotaStore.close`."""


class Router:
    """One router's limiter, with a clock of its own."""

    def __init__(self, name: str, store: QuotaStore, clock: Clock, ahead: float, *, share: bool = True) -> None:
        self.source = SharedSource(store, name, lambda: clock.now + ahead, share=share, offset=-ahead)
        self.limiter = Limiter(self.source, lambda: clock.now + ahead)

    async def admit(self, claims: tuple[Claim, ...], principal: str, tokens: int) -> Admission | ServiceError:
        """Admits a call, asking the store once if need be."""
        try:
            admission = self.limiter.admit(claims, principal=principal, tokens=tokens)
            if admission is not None:
                return admission
            later = asyncio.ensure_future(self.limiter.admit_later(claims, principal=principal, tokens=tokens))
            while not later.done():
                await asyncio.sleep(0)
                if not later.done():
                    await self.source.desk.trip()
            return await later
        except ServiceError as error:
            return error


@dataclass
class Mesh:
    """Several routers, one store."""

    count: int = 2
    share: bool = True
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.memory = MemoryStore(self.clock.time, quiet=0.0)
        self.store = FlakyStore(self.memory)
        self.routers = [
            Router(f"router-{i}", self.store, self.clock, 77.7 * i, share=self.share) for i in range(self.count)
        ]

    async def advance(self, seconds: float) -> None:
        """Lets time pass; each router is heard of once a heartbeat."""
        while seconds > 0:
            step = min(seconds, HEARTBEAT)
            self.clock.advance(step)
            seconds -= step
            await self.beat()

    async def beat(self) -> None:
        """Each router asks once."""
        for router in self.routers:
            await router.source.desk.trip()
