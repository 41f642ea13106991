"""Carries what a router asks of the store and has to tell it: one question at a time, for everybody who waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.router.limits.exchange import HEARTBEAT, Answer, Exchange, Hold, Lack, QuotaStore, StoreAwayError
from services.router.limits.metrics import ROUND_TRIPS, STORE_UP
from services.router.limits.purses import Purse

log = logging.getLogger(__name__)

MOST_CALLS: Final = 256
MOST_HOLDS: Final = 512
"""In one question: the store answers nobody else meanwhile."""
MOST_WAITING: Final = 10_000
NO_HURRY: Final = 0.02
"""Seconds for which what is no caller's haste may gather."""


@dataclass(slots=True, eq=False)
class _Waiting:
    needs: list[tuple[Purse, int]]
    answer: asyncio.Future[list[int] | list[tuple[Purse, Lack]]]


class Desk:
    """See `purses.Desk`. `forgotten` is called when the store has begun anew, before anything else is asked of it."""

    def __init__(
        self,
        store: QuotaStore,
        router: str,
        clock: Callable[[], float],
        purses: Callable[[], list[Purse]],
        offset: float = 0.0,
    ) -> None:
        self.away = False
        """Whether the store did not answer when it was last asked."""
        self.away_since = 0.0
        self._why_away = ""
        self.routers = 1
        """How many the store last knew."""
        self._store = store
        self._router = router
        self._clock = clock
        self._purses = purses
        self._epoch = ""
        self.questions = 0
        """How many the store was asked, so far."""
        self._offset = offset
        self._quiet_until = 0.0
        self._noted: dict[Purse, None] = {}
        self._live: dict[Purse, None] = {}
        """Those that have a lease, or open calls."""
        self._beat_at = 0.0
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to carry."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="limits: desk")

    async def close(self) -> None:
        """Tells the store what it is still to be told, gives back what is at hand, and ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting:
            waiting.answer.cancel()
        self._waiting.clear()
        for purse in self._purses():
            purse.retire()
        while not self.away and self._noted:
            await self.trip()
        if not self.away:
            with contextlib.suppress(StoreAwayError):
                await self._store.exchange(self._question([], [], leaving=True))
        await self._store.close()

    def note(self, purse: Purse) -> None:
        """See `purses.Desk.note`."""
        self._noted[purse] = None
        self._wake.set()

    def store_time(self, now: float) -> float:
        """See `purses.Desk.store_time`."""
        return now + self._offset

    async def ask(self, needs: list[tuple[Purse, int]]) -> list[int] | list[tuple[Purse, Lack]]:
        """Takes all that is needed or nothing: the slots, or what lacks. Raises `StoreAwayError`."""
        if len(self._waiting) >= MOST_WAITING:
            raise StoreAwayError("too many calls wait for it")
        waiting = _Waiting(needs, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        self._hurry.set()
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            self._left(waiting)
            raise

    async def trip(self) -> None:
        """One question and its answer, for as many as it may concern. While the store is away it is only looked for,
        since nobody could tell which of what a lost question said has been heard.
        """
        sent = self._clock()
        calls, holds = ([], {}) if self.away else self._gather(sent)
        purses = list(holds)
        question = self._question(
            [purse.hold(sent) for purse in purses],
            [[(holds[purse], amount) for purse, amount in waiting.needs] for waiting in calls],
        )
        try:
            answer = await self._store.exchange(question)
        except StoreAwayError as error:
            self._lost(error, purses, question, calls)
        except asyncio.CancelledError:
            self._undecided(purses, question)
            self._waiting.extendleft(reversed(calls))
            raise
        else:
            try:
                self._take(answer, sent, purses, question, calls)
            except (IndexError, KeyError, TypeError, ValueError):  # nobody may wait for ever for such an answer
                log.exception("the limits' store gave an answer that does not fit")
                self._lost(StoreAwayError("its answer did not fit the question"), purses, question, calls)

    async def _run(self) -> None:
        while True:
            await self.trip()
            if self._waiting and (quiet := self._quiet_until - self._clock()) > 0:
                await asyncio.sleep(min(quiet, HEARTBEAT))
                continue
            if self.away:
                await asyncio.sleep(HEARTBEAT)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await self._wake.wait()
                if not self._waiting:
                    async with asyncio.timeout(NO_HURRY):
                        await self._hurry.wait()

    def _gather(self, now: float) -> tuple[list[_Waiting], dict[Purse, int]]:
        """Who is asked for, and the purses that this concerns, each with its place."""
        self._wake.clear()
        self._hurry.clear()
        calls: list[_Waiting] = []
        holds: dict[Purse, int] = {}
        self._beat(now)
        while self._waiting and len(calls) < MOST_CALLS and len(holds) < MOST_HOLDS:
            waiting = self._waiting.popleft()
            if waiting.answer.done():
                continue
            calls.append(waiting)
            for purse, _ in waiting.needs:
                holds.setdefault(purse, len(holds))
        for purse in list(self._noted):
            if len(holds) >= MOST_HOLDS:
                self._wake.set()
                self._hurry.set()
                break
            holds.setdefault(purse, len(holds))
            del self._noted[purse]
        for purse in holds:
            purse.prune(self.store_time(now))
        return calls, holds

    def _beat(self, now: float) -> None:
        if now - self._beat_at < HEARTBEAT:
            return
        self._beat_at = now
        for purse in list(self._live):
            if purse.due(now):
                self._noted[purse] = None
            elif not purse.leased:
                del self._live[purse]

    def _question(self, holds: list[Hold], calls: list[list[tuple[int, int]]], *, leaving: bool = False) -> Exchange:
        self.questions += 1
        return Exchange(self._router, self.questions, self._epoch, holds, calls, leaving)

    def _take(
        self, answer: Answer, sent: float, purses: list[Purse], question: Exchange, calls: list[_Waiting]
    ) -> None:
        now = self._clock()
        ROUND_TRIPS.labels("answered").inc()
        STORE_UP.set(1)
        if self.away:
            self.away, self._why_away = False, ""
            log.info("the limits' store answers again")
        self.routers = max(answer.routers, 1)
        self._offset = answer.now - now
        self._quiet_until = now + answer.quiet
        if not answer.known and answer.epoch == question.epoch:  # it has heard the question before; the answer was lost
            self._undecided(purses, question)
            self._waiting.extendleft(reversed(calls))
            self._hurry.set()
            return
        if not answer.known:
            self._begun_anew(answer, purses, question, calls)
            return
        self._epoch = answer.epoch
        for purse, hold in zip(purses, question.holds, strict=True):
            purse.told(hold.changes)
        # First what was charged for calls, then the leases: a call may have left since, and gives back at once.
        if answer.quiet:
            self._waiting.extendleft(reversed(calls))
        else:
            for waiting, found in zip(calls, answer.calls, strict=True):
                self._tell(waiting, found, purses)
        for purse, grant in zip(purses, answer.grants, strict=True):
            purse.grant(grant, sent)
            if purse.leased or purse.open:
                self._live[purse] = None

    def _tell(self, waiting: _Waiting, found: list[int] | list[Lack], purses: list[Purse]) -> None:
        if found and isinstance(found[0], Lack):
            lacks = [(purses[lack.hold], lack) for lack in found if isinstance(lack, Lack)]
            if not waiting.answer.done():
                waiting.answer.set_result(lacks)
            return
        slots = [slot for slot in found if not isinstance(slot, Lack)]
        now = self._clock()
        for (purse, amount), slot in zip(waiting.needs, slots, strict=True):
            purse.book(slot, amount)
            if purse.counts_calls:
                purse.begin(amount)
            if waiting.answer.done():
                purse.give_back(slot, amount, now)
        if not waiting.answer.done():
            waiting.answer.set_result(slots)

    def _left(self, waiting: _Waiting) -> None:
        """The caller has left; what it was given a moment ago goes back."""
        answer = waiting.answer
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            for (purse, amount), slot in zip(waiting.needs, answer.result(), strict=False):
                if isinstance(slot, int):
                    purse.give_back(slot, amount, self._clock())

    def _begun_anew(self, answer: Answer, purses: list[Purse], question: Exchange, calls: list[_Waiting]) -> None:
        """Nothing of the question was done: the store is another than the one that we know, and is told of all."""
        log.warning("the limits' store has begun anew; it is told what was charged")
        self._epoch = answer.epoch
        for purse, hold in zip(purses, question.holds, strict=True):
            for slot, amount in hold.changes:
                purse.change(slot, amount)
        for purse in self._purses():
            purse.forgotten()
        self._waiting.extendleft(reversed(calls))
        self._hurry.set()

    def _lost(self, error: StoreAwayError, purses: list[Purse], question: Exchange, calls: list[_Waiting]) -> None:
        ROUND_TRIPS.labels("failed").inc()
        STORE_UP.set(0)
        if not self.away:
            self.away = True
            self.away_since = self._clock()
        if (why := str(error)) != self._why_away:
            self._why_away = why
            log.warning("the limits' store is away: %s", why)
        self._undecided(purses, question)
        for waiting in (*calls, *self._waiting):
            if not waiting.answer.done():
                waiting.answer.set_exception(StoreAwayError(why))
        self._waiting.clear()

    def _undecided(self, purses: list[Purse], question: Exchange) -> None:
        for purse, hold in zip(purses, question.holds, strict=True):
            purse.unsure(hold.changes)
            self._live[purse] = None
