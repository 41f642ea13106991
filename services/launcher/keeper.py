"""The launcher at work: in rounds, it takes in what has happened, decides, keeps what it decided, and only then acts.

One task writes starts, and only while it holds the lease. What others find out (tasks, routers, queues) comes to it as
events, so that no two changes of one start ever meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from services.core.catalogue import Catalogue
from services.core.errors import ServiceError
from services.core.globus import CallMode
from services.core.tracing import log_fields, parse
from services.launcher import machine
from services.launcher.board import Board
from services.launcher.carrier import Carrier
from services.launcher.config import LauncherConfig
from services.launcher.metrics import LEADING, LIVE, count_change
from services.launcher.policy import Action, GiveUp, Launch, Policy, Stop, Use, backoff, decide
from services.launcher.queues import Queues
from services.launcher.requests import in_task_mode, launched, new_start, resolve
from services.launcher.routers import Routers, Sightings
from services.launcher.start_trace import StartTraces
from services.launcher.starts import Start, StartState
from services.launcher.states import describe
from services.launcher.store import LeaseLostError, Store
from services.launcher.watcher import Delayed, Ended, Event, Failed, NodeSeen, Revoked, Submitted

log = logging.getLogger(__name__)

_TIDY: Final = 3600.0
_NEWS: Final = 60.0
"""Seconds that the end of a task may take to be heard of."""
_HISTORY: Final = 30 * 86_400.0
"""Seconds that a start which is over stays listed."""
_GONE: Final = Policy(max_workers=0)
"""For an endpoint that is no more, or starts no workers any more."""


class Keeper:
    """Keeps every endpoint's workers. `run` it, and `close` it after. `carrier` makes what it acts by."""

    def __init__(
        self,
        store: Store,
        catalogue: Callable[[], Catalogue | None],
        routers: Routers,
        queues: Queues,
        board: Board,
        config: LauncherConfig,
        carrier: Callable[[Callable[[], None]], Carrier],
        *,
        traces: StartTraces | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._routers = routers
        self._queues = queues
        self._board = board
        self._config = config
        self._traces = traces
        self._clock = clock
        self._fence: int | None = None
        self._woken = asyncio.Event()
        self._carrier = carrier(self.wake)
        self._starts: dict[str, Start] = {}
        self._use: dict[str, tuple[Use, int]] = {}
        self._tidy_at = 0.0

    def wake(self) -> None:
        """Something has happened: look at once."""
        self._woken.set()

    async def run(self) -> None:
        """Works until cancelled."""
        said = ""
        while True:
            self._woken.clear()
            try:
                await self._round()
                said = ""
            except LeaseLostError:
                await self._stand_down()
            except ServiceError as error:
                if said != (said := str(error)):
                    log.warning("the launcher pauses: %s", error)
            try:
                async with asyncio.timeout(self._config.tick_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Leaves everything as it is for the next run, or for another launcher. The tasks at Globus go on."""
        acts = self._fence is not None
        await self._stand_down()
        if acts:
            with contextlib.suppress(ServiceError):
                await self._store.release()

    async def _stand_down(self) -> None:
        if self._fence is not None:
            log.info("this launcher no longer acts")
        self._fence = None
        LEADING.set(0)
        await self._carrier.put_down()
        self._starts.clear()
        self._use.clear()

    # One round

    async def _round(self) -> None:
        fence = await self._store.hold()
        if fence is None or fence != self._fence:
            await self._stand_down()
        catalogue = self._catalogue()
        if catalogue is None:
            return
        now = self._clock()
        policies = {
            name: resolve(catalogue, endpoint, found[1], self._config)
            for name, endpoint in catalogue.endpoints.items()
            if (found := launched(endpoint)) is not None
        }
        if fence is not None:
            if self._fence is None:
                log.info("this launcher acts", extra={"fence": fence})
                LEADING.set(1)
            self._fence = fence
            await self._lead(catalogue, policies, now)
        starts = self._starts.values() if fence is not None else await self._store.unsettled()
        # By now it is later, and what ended meanwhile is not to lie ahead.
        await self._tell(catalogue, policies, [start for start in starts if start.live], self._clock())

    async def _lead(self, catalogue: Catalogue, policies: Mapping[str, Policy], now: float) -> None:
        self._starts = {start.id: start for start in await self._store.unsettled()}
        sightings = self._routers.latest
        await self._take_events(catalogue)
        for start in self._live():
            await self._keep(self._looked_at(start, sightings, catalogue, now))
        self._notice_use(sightings, now)
        found_out = await self._found_out(catalogue)
        waiting = await self._store.waiting(now - self._config.want_life_s)
        asked = await self._store.asked_to_stop()
        ended = _by_endpoint(await self._store.ended(now - 2 * self._config.longest_backoff_s))
        for endpoint in sorted(policies.keys() | {start.endpoint for start in self._live()}):
            policy = policies.get(endpoint, _GONE)
            live = self._live(endpoint)
            resting = backoff(policy, ended[endpoint], now)
            use = {start.id: self._use[start.id][0] for start in live if start.id in self._use}
            for action in decide(policy, live, waiting.get(endpoint, 0), use, resting, now, asked=asked):
                await self._do(action, endpoint, catalogue, found_out, now)
        self._carrier.carry_on(list(self._starts.values()), catalogue)
        await self._tidy(now)

    def _live(self, endpoint: str = "") -> list[Start]:
        return [start for start in self._starts.values() if start.live and endpoint in ("", start.endpoint)]

    async def _found_out(self, catalogue: Catalogue) -> frozenset[str]:
        """The endpoints whose nodes were found unable to reach a router, where that still decides how calls travel."""
        found_out = await self._store.in_task_mode()
        for endpoint in found_out:
            found = launched(catalogue.endpoints.get(endpoint))
            if found is None or found[0].call_mode is not CallMode.AUTO:
                await self._store.set_task_mode(endpoint, self._held(), since=None)
        return found_out

    async def _do(
        self, action: Action, endpoint: str, catalogue: Catalogue, found_out: frozenset[str], now: float
    ) -> None:
        match action:
            case Launch(slot):
                found = launched(catalogue.endpoints.get(endpoint))
                if found is None:
                    return
                tasks = in_task_mode(found[0], found_out=endpoint in found_out)
                cause = await self._store.cause(endpoint, now - self._config.want_life_s)
                start = new_start(endpoint, slot, *found, now, tasks=tasks, cause=cause)
                if self._traces is not None:
                    start = self._traces.decided(start)
                if await self._store.add(start, self._held()):
                    log.info("starting a worker", extra={"start": start.id, "endpoint": endpoint, "slot": slot})
                    self._starts[start.id] = start
            case Stop(identity, why):
                await self._keep(machine.draining(self._starts[identity], why, now))
            case GiveUp(identity, why, failed):
                start = self._starts[identity]
                over = machine.failed if failed else machine.ended
                await self._keep(over(start, now, detail=why, outcome="given_up"))

    def _held(self) -> int:
        if self._fence is None:
            raise LeaseLostError
        return self._fence

    async def _keep(self, start: Start) -> None:
        """Writes a start if it has changed."""
        before = self._starts[start.id]
        if start == before:
            return
        await self._store.put(start, self._held())
        self._starts[start.id] = start
        count_change(before, start)
        if self._traces is not None:
            self._traces.changed(before, start)
        if start.state is not before.state:
            level = logging.WARNING if start.state is StartState.FAILED else logging.INFO
            details = {"start": start.id, "endpoint": start.endpoint, "slot": start.slot}
            details |= log_fields(parse(start.place))
            log.log(level, "a start is %s: %s", start.state.name.lower(), start.detail, extra=details)

    # What has happened

    async def _take_events(self, catalogue: Catalogue) -> None:
        events = self._carrier.events
        while events:
            identity, event = events[0]
            start = self._starts.get(identity)
            if start is not None:
                await self._take(start, event, catalogue)
            events.popleft()  # only now: without the database it is to be taken again

    async def _take(self, start: Start, event: Event, catalogue: Catalogue) -> None:
        now = self._clock()
        match event:
            case Submitted(task):
                start = machine.submitted(start, task, now)
            case Delayed(why):
                start = machine.delayed(start, why)
            case Revoked():
                start = machine.revoked(start)
            case Failed(why, outcome):
                start = machine.task_failed(start, why, now, outcome=outcome)
            case NodeSeen(state, detail):
                walltime = self._walltime(start, catalogue)
                start = machine.node_seen(start, state, detail, now, walltime=walltime)
            case Ended(outcome):
                if outcome.log_tail:
                    log.info("the last of a worker's log", extra={"start": start.id, "lines": outcome.log_tail})
                start = await self._task_ended(start, outcome, catalogue, now)
        await self._keep(start)

    async def _task_ended(self, start: Start, outcome: machine.Outcome, catalogue: Catalogue, now: float) -> Start:
        found = launched(catalogue.endpoints.get(start.endpoint))
        automatic = found is not None and found[0].call_mode is CallMode.AUTO
        if outcome.kind == "router_unreachable" and automatic and start.live and not start.tasks:
            if self._routers.was_away(self._config.attach_timeout_s + _NEWS):
                # It may have been the router, and not the way to it; the next attempt tells.
                return machine.task_ended(start, outcome, now)
            await self._store.set_task_mode(start.endpoint, self._held(), since=now)
            detail = f"{outcome.detail or 'its node cannot reach a router'}; from now on, calls travel as tasks"
            return machine.failed(start, now, detail, outcome=outcome.kind, counts=False)
        return machine.task_ended(start, outcome, now)

    def _looked_at(self, start: Start, sightings: Sightings, catalogue: Catalogue, now: float) -> Start:
        seen = sightings.workers.get(start.id)
        if seen is not None:
            return machine.worker_seen(start, seen, now, walltime=self._walltime(start, catalogue))
        if sightings.complete:
            start = machine.worker_missing(start, now, lost_after=self._config.lost_after_s)
        queue = self._queues.last(start.endpoint.partition("/endpoints/")[0])
        if queue is not None and queue.asked_at >= (start.submitted_at or now):
            job = queue.job_of(start.endpoint, start.slot)
            if job is not None:
                start = machine.queue_seen(start, job.queued())
        return start

    def _notice_use(self, sightings: Sightings, now: float) -> None:
        for identity, seen in sightings.workers.items():
            use, ended_calls = self._use.get(identity, (Use(0, now), seen.ended_calls))
            called = seen.open_calls or seen.ended_calls != ended_calls
            self._use[identity] = (Use(seen.open_calls, now if called else use.last_call), seen.ended_calls)
        for identity in self._use.keys() - self._starts.keys():
            del self._use[identity]

    def _walltime(self, start: Start, catalogue: Catalogue) -> float | None:
        found = launched(catalogue.endpoints.get(start.endpoint))
        return found[1].walltime if found is not None else None

    async def _tidy(self, now: float) -> None:
        if now >= self._tidy_at:
            await self._store.forget(now - _HISTORY)
            await self._store.forget_wants(now - 60 * self._config.want_life_s)
            self._tidy_at = now + _TIDY

    # What others are told

    async def _tell(
        self, catalogue: Catalogue, policies: Mapping[str, Policy], live: Sequence[Start], now: float
    ) -> None:
        found_out = await self._store.in_task_mode()
        ended = _by_endpoint(await self._store.ended(now - 2 * self._config.longest_backoff_s))
        ours = _by_endpoint(live)
        states = {}
        for name, policy in policies.items():
            found = launched(catalogue.endpoints[name])
            tasks = found is not None and in_task_mode(found[0], found_out=name in found_out)
            resting = backoff(policy, ended[name], now)
            states[name] = describe(name, policy, ours[name], resting, now, tasks=tasks)
        self._board.publish(states)
        for state in StartState:
            LIVE.labels(state.name.lower()).set(sum(start.state is state for start in live))


def _by_endpoint(starts: Iterable[Start]) -> defaultdict[str, list[Start]]:
    found: defaultdict[str, list[Start]] = defaultdict(list)
    for start in starts:
        found[start.endpoint].append(start)
    return found
