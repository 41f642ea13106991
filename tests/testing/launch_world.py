"""A keeper with its carrier over a real store. Globus, auth, the routers and the clock are in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from services.core.catalogue import Catalogue, Endpoint
from services.core.errors import Reason, ServiceError
from services.core.globus import CallMode, GlobusBackend, GlobusFunction, LaunchPolicy
from services.core.tracing import Sampling, Span, Tracer
from services.globus.errors import GlobusError, Kind
from services.launcher.board import Board
from services.launcher.carrier import Carrier
from services.launcher.config import LauncherConfig
from services.launcher.enrolment import Enrolment
from services.launcher.functions import Functions
from services.launcher.keeper import Keeper
from services.launcher.machine import Seen
from services.launcher.queues import Queues
from services.launcher.requests import Requests
from services.launcher.routers import Place, Routers, Sightings
from services.launcher.start_trace import StartTraces
from services.launcher.starts import Start
from services.launcher.store import Store
from services.launcher.task_workers import TaskWorker
from services.runtime.database import open_database

ENDPOINT = "clusters/c/endpoints/e"
CONFIG = LauncherConfig(idle_time_s=600, replace_before_s=900, first_backoff_s=10, longest_backoff_s=60)


class Clock:
    """Both the wall's clock and the steady one."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Run:
    """A task that was asked for: what for, and its answer, which a test gives."""

    payload: Mapping[str, Any]
    submitted: Callable[[str], None]
    answer: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Globus:
    """The service, which outlives launchers. A task's id is told by `accept`; `over` are those that have ended."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.over: dict[str, Any] = {}

    def of(self, function: str) -> list[Run]:
        """The runs of `start-worker`, or those with a `control`."""
        return [run for run in self.runs if run.payload.get("control", "start-worker") == function]

    def accept(self, run: Run, task: str) -> None:
        """The service has taken it."""
        run.submitted(task)

    async def run(
        self,
        credentials: str,
        endpoint_uuid: str,
        function_uuid: str,
        payload: Mapping[str, Any],
        user_endpoint_config: Mapping[str, Any] | None = None,
        submitted: Callable[[str], None] = lambda task_id: None,
        happened: Callable[[str], None] = lambda what: None,
    ) -> Any:
        run = Run(payload, submitted)
        self.runs.append(run)
        return await asyncio.shield(run.answer)

    async def task_state(self, credentials: str, task_id: str) -> Any:
        return State(pending=task_id not in self.over, result=self.over.get(task_id))

    async def allowed_functions(self, credentials: str, endpoint_uuid: str) -> frozenset[str] | None:
        raise NotImplementedError

    async def endpoint_status(self, credentials: str, endpoint_uuid: str) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        pass


@dataclass(frozen=True)
class State:
    """How a task is."""

    pending: bool
    result: Any = None
    error: GlobusError | None = None


class Auth:
    """Enrolment tokens: the starts that may be admitted, and each revocation."""

    def __init__(self) -> None:
        self.admits: set[str] = set()
        self.revoked: list[str] = []
        self.fails: list[Exception] = []

    async def issue(self, start: str, endpoint: str, *, lifetime: float, serves: str) -> str:
        if self.fails:
            raise self.fails.pop()
        self.admits.add(start)
        return f"token of {start}"

    async def revoke(self, start: str) -> None:
        if self.fails:
            raise self.fails[0]
        self.admits.discard(start)
        self.revoked.append(start)


class Sessions:
    """What the routers tell."""

    def __init__(self) -> None:
        self.latest = Sightings(complete=True)
        self.stopped: list[str] = []
        self.away = False

    def see(self, workers: Mapping[str, Seen]) -> None:
        """These workers are attached, and no others."""
        places = {start: (Place("r", ENDPOINT, seen.instance),) for start, seen in workers.items()}
        self.latest = Sightings(complete=True, workers=workers, places=places)

    def was_away(self, within: float) -> bool:
        return self.away

    async def stop(self, places: Iterable[Place], why: str) -> None:
        self.stopped += [place.instance for place in places]


class Followed:
    """The workers that are served by tasks."""

    def __init__(self) -> None:
        self.now: tuple[TaskWorker, ...] = ()

    def follow(self, workers: Iterable[TaskWorker]) -> None:
        self.now = tuple(workers)

    async def close(self) -> None:
        pass


class Spans:
    """Those that were made, by all launchers, in order."""

    def __init__(self) -> None:
        self.made: list[Span] = []
        self.tracer: Tracer | None = None

    def on(self, **sampling: Any) -> None:
        """Launchers that are opened from now on trace."""
        self.tracer = Tracer(self, Sampling(**sampling))

    def record(self, span: Span) -> None:
        self.made.append(span)

    def take(self) -> list[Span]:
        """Those since the last time."""
        made, self.made = self.made, []
        return made


class Site:
    """What launchers share: the database, the catalogue, and the others."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.globus, self.auth, self.sessions = Clock(), Globus(), Auth(), Sessions()
        self.folder = folder
        self.catalogue = Catalogue()
        self.spans = Spans()

    def endpoint(self, mode: CallMode = CallMode.SESSION, **policy: Any) -> None:
        """Has the catalogue hold the endpoint, and nothing else."""
        launch = LaunchPolicy(GlobusFunction("uuid", "start"), **policy)
        backend = GlobusBackend(inference=GlobusFunction("uuid", "inference"), launch=launch, call_mode=mode)
        self.catalogue = Catalogue.of([Endpoint(ENDPOINT, backend)])


class Launcher:
    """One launcher of a site. To be opened and closed; `crash` is the other way to end."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.followed, self.board = site, Followed(), Board()
        engine = open_database("", site.folder / "launcher.db", setting="launcher.database")
        self.store = Store(engine, holder=name, lease_life=CONFIG.lease_life_s, clock=site.clock)
        functions = Functions(site.globus)
        auth = cast(Enrolment, site.auth)
        self.requests = Requests(lambda: site.catalogue, functions, auth, CONFIG)
        routers = cast(Routers, site.sessions)
        queues = Queues(site.globus, functions, age=10, clock=site.clock)

        def carrier(happened: Callable[[], None]) -> Carrier:
            self.carrier = Carrier(
                site.globus, self.requests, auth, routers, queues, self.followed, CONFIG, happened=happened
            )
            self.carrier._errands._clock = site.clock
            return self.carrier

        self.keeper = Keeper(
            self.store,
            lambda: site.catalogue,
            routers,
            queues,
            self.board,
            CONFIG,
            carrier,
            traces=StartTraces(site.spans.tracer) if site.spans.tracer is not None else None,
            clock=site.clock,
        )

    async def open(self) -> Launcher:
        await self.store.start()
        return self

    async def round(self, seconds: float = 0.0) -> None:
        """One round, after so many seconds, and all that it begins."""
        self.site.clock.now += seconds
        await self.keeper._round()
        for _ in range(20):
            await asyncio.sleep(0)

    async def crash(self) -> None:
        """Ends it with nothing put in order but the threads of its database."""
        await self.carrier.put_down()
        await self.store.close()

    async def close(self) -> None:
        await self.keeper.close()
        await self.store.close()

    async def starts(self) -> list[Start]:
        """All, the first first."""
        return list(reversed(await self.store.page(ended=True, limit=100)))

    async def settled(self) -> bool:
        """Whether nothing is left to do for any."""
        return not await self.store.unsettled()

    async def want(self, waiting: int, router: str = "r", traceparent: str = "") -> None:
        await self.store.say_want(ENDPOINT, router, waiting, self.site.clock.now, traceparent)


READY = Seen("i", ready=True)
AUTH_AWAY = ServiceError(Reason.AUTH_UNAVAILABLE, "auth is away")
GLOBUS_AWAY = GlobusError(Kind.SERVICE_UNAVAILABLE, "Globus is away.", "")


def busy(**fields: Any) -> Seen:
    """A worker with an open call."""
    return replace(READY, open_calls=1, **fields)


def slots(starts: Sequence[Start]) -> list[tuple[int, str]]:
    """Starts in short."""
    return [(start.slot, start.state.name) for start in starts]
