"""Admits calls within their limits, and settles what they have used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from services.core.errors import Reason, ServiceError
from services.core.inference import Headers
from services.router.limits.account import Account
from services.router.limits.claims import Claim
from services.router.limits.metrics import ADMITTED, SUBJECTS, count_refused
from services.router.limits.refusals import Shortage, above_limit, refusal
from services.router.limits.source import OwnSource, Source

log = logging.getLogger(__name__)

SWEEP_EVERY: Final = 10.0
FORGET_AFTER: Final = 60.0
"""Seconds without a call after which a caller's counters are let go; what is counted stays as long as it counts."""
MOST_ACCOUNTS: Final = 100_000
MOST_RULES: Final = 400_000


class Admission:
    """A call that is admitted: what it has reserved. `settle` exactly once, when it has ended."""

    __slots__ = ("_account", "_clock", "_settled", "_slots", "_tokens")

    def __init__(self, account: Account, slots: list[int], tokens: int, clock: Callable[[], float]) -> None:
        self._account = account
        self._settled = False
        self._slots = slots
        self._tokens = tokens
        self._clock = clock
        account.open += 1

    @property
    def headers(self) -> Headers:
        """OpenAI's `x-ratelimit-…`, as the limits stand now."""
        return self._account.headers.at(self._clock())

    def settle(self, tokens: int) -> None:
        """The call has ended, and has used so many tokens, of prompt and answer together.

        What it had reserved beyond is given back to when it was reserved; what it used beyond is charged now. That it
        began stays counted. Whoever settles twice changes nothing.
        """
        if self._settled:
            return
        self._settled = True
        account = self._account
        account.open -= 1
        account.settle(self._slots, self._tokens - tokens, self._clock())


class Limiter:
    """Admits calls; see `admit`. Everything happens on the loop."""

    def __init__(self, source: Source | None = None, clock: Callable[[], float] | None = None) -> None:
        self._source: Source = OwnSource() if source is None else source
        self._clock = clock or asyncio.get_running_loop().time
        self._accounts: dict[tuple[tuple[Claim, ...], str], Account] = {}
        self._by_id: dict[tuple[int, str], Account] = {}
        self._admitted = 0
        """Not yet told to the metric, to which one call more costs as much as to a window."""
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins what runs in the background."""
        SUBJECTS.set_function(lambda: len(self._source))
        self._source.start()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_on(), name="limits: sweeper")

    async def close(self) -> None:
        """Ends it, and gives back what other routers could use."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        self.sweep()
        await self._source.close()

    def admit(self, claims: tuple[Claim, ...], *, principal: str, tokens: int) -> Admission | None:
        """Admits a call that may use up to so many tokens, to all that it claims or to nothing.

        None says that the store must be asked: `admit_later`. Raises REQUESTS_EXHAUSTED, TOKENS_EXHAUSTED or
        CALLS_EXHAUSTED with the time after which it is worth to try again, TOKENS_ABOVE_LIMIT for a call that could
        never be admitted, LIMITS_UNAVAILABLE if nobody can count.
        """
        account = self._account(claims, principal)
        now = account.used_at = self._clock()
        most = account.most
        if most is not None and tokens > most.rule.limit:
            count_refused(Reason.TOKENS_ABOVE_LIMIT)
            raise above_limit(most.subject, most.rule, tokens)
        slots = account.take(tokens, now)
        if slots is not None:
            self._admitted += 1
            return Admission(account, slots, tokens, self._clock)
        if self._source.final:
            raise self._refused(account, _shortages(account, tokens, now), now)
        return None

    async def admit_later(self, claims: tuple[Claim, ...], *, principal: str, tokens: int) -> Admission:
        """The same, asking the store for what is not at hand; after `admit` said None."""
        admission = self.admit(claims, principal=principal, tokens=tokens)
        if admission is not None:
            return admission
        account = self._account(claims, principal)
        account.open += 1  # so that it is not swept away meanwhile
        try:
            found = await self._source.fetch(account, tokens)
        except ServiceError as error:
            count_refused(error.reason)
            raise
        finally:
            account.open -= 1
        if found.shortages:
            raise self._refused(account, found.shortages, self._clock())
        self._admitted += 1
        return Admission(account, found.slots, tokens, self._clock)

    def room(self, claims: tuple[Claim, ...], *, principal: str) -> int | None:
        """Tokens that a call could be admitted with at present, as far as is known here; None without such a limit."""
        account = self._account(claims, principal)
        if account.most is None:
            return None
        now = self._clock()
        return min(counter.room(now) for counter in account.counters if counter.counts_tokens)

    def sweep(self) -> None:
        """Forgets the callers who have not called for a while, and what is counted of nobody."""
        now = self._clock()
        ADMITTED.inc(self._admitted)
        self._admitted = 0
        for key, account in list(self._accounts.items()):
            if not account.open and account.used_at < now - FORGET_AFTER:
                del self._accounts[key]
                for counter in account.counters:
                    counter.let_go()
        self._by_id.clear()
        self._source.sweep(now)

    def _account(self, claims: tuple[Claim, ...], principal: str) -> Account:
        # To hash claims costs more than all the rest, and callers mostly come with the same object again. An account
        # keeps its claims alive, so that no other object can have their id.
        account = self._by_id.get((id(claims), principal))
        if account is not None and account.claims is claims:
            return account
        account = self._accounts.get((claims, principal))
        if account is None:
            if len(self._accounts) >= MOST_ACCOUNTS or len(self._source) >= MOST_RULES:
                self.sweep()
                if len(self._accounts) >= MOST_ACCOUNTS or len(self._source) >= MOST_RULES:
                    raise ServiceError(Reason.LIMITS_UNAVAILABLE, retry_after=FORGET_AFTER)
            account = Account(claims, principal, self._source.counters(claims, principal))
            self._accounts[claims, principal] = account
        if account.claims is claims:
            self._by_id[id(claims), principal] = account
        return account

    def _refused(self, account: Account, shortages: list[Shortage], now: float) -> ServiceError:
        error = refusal(shortages, account.headers.at(now))
        count_refused(error.reason)
        return error

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            self.sweep()


def _shortages(account: Account, tokens: int, now: float) -> list[Shortage]:
    short: list[Shortage] = []
    for counter in account.counters:
        amount = tokens if counter.counts_tokens else 1
        room = counter.room(now)
        if room < amount:
            short.append(Shortage(counter.subject, counter.rule, amount, room, counter.wait(amount, now)))
    return short
