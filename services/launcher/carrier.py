"""Does what starts need in the background: their tasks, their nodes, their ends. What comes of it are events."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any, Final

from services.core import tracing
from services.core.catalogue import Catalogue
from services.launcher.config import LauncherConfig
from services.launcher.enrolment import Enrolment
from services.launcher.errands import Errands
from services.launcher.queues import Queues
from services.launcher.requests import Requests, launched
from services.launcher.routers import Place, Routers
from services.launcher.starts import Start, StartState
from services.launcher.task_workers import TaskWorker, TaskWorkers
from services.launcher.tasks import TaskRunner
from services.launcher.watcher import Event, Failed, Revoked, follow, stop_node, submit, watch_node

log = logging.getLogger(__name__)

_AGAIN: Final = 15.0
"""Seconds after which a worker that was asked to end, and has not, is asked again."""
_REVOKE_AGAIN: Final = 5.0
_REVOKE_LATER: Final = 60.0
"""Seconds after which auth is told once more that a start is over whose worker is not gone yet."""


class Carrier:
    """Carries starts from one round of the keeper to the next. `happened` is called when there is something new."""

    def __init__(
        self,
        tasks: TaskRunner,
        requests: Requests,
        enrolment: Enrolment,
        routers: Routers,
        queues: Queues,
        task_workers: TaskWorkers,
        config: LauncherConfig,
        *,
        happened: Callable[[], None],
    ) -> None:
        self.events: deque[tuple[str, Event]] = deque()
        """What happened to which start, in order; a few for each."""
        self._tasks = tasks
        self._requests = requests
        self._enrolment = enrolment
        self._routers = routers
        self._queues = queues
        self._task_workers = task_workers
        self._config = config
        self._happened = happened
        self._carried: dict[str, asyncio.Task[None]] = {}
        self._nodes: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._errands = Errands()

    def carry_on(self, starts: Collection[Start], catalogue: Catalogue) -> None:
        """These are all starts for which something is left to do."""
        known = {start.id for start in starts}
        for kept in self._kept:
            for identity in kept.keys() - known:
                kept.pop(identity).cancel()
        for start in starts:
            places = self._routers.latest.places.get(start.id, ())
            if start.live:
                self._carry(start)
            else:
                self._let_go(start, places)
            if not start.live or start.state is StartState.DRAINING:
                self._end_worker(start, places)
        self._ask_queues(starts, catalogue)
        self._task_workers.follow(
            TaskWorker(start.id, start.endpoint, start.slot, found[1].serves, start.config)
            for start in starts
            if start.tasks and start.state is StartState.READY
            if (found := launched(catalogue.endpoints.get(start.endpoint))) is not None
        )

    async def put_down(self) -> None:
        """Leaves everything as it is, for whoever carries it next. The tasks at Globus go on."""
        tasks = [task for kept in self._kept for task in kept.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._errands.close()
        for kept in self._kept:
            kept.clear()
        self.events.clear()
        self._task_workers.follow(())

    @property
    def _kept(self) -> tuple[dict[str, asyncio.Task[None]], ...]:
        return self._carried, self._nodes, self._stops

    def _carry(self, start: Start) -> None:
        tell = partial(self._tell, start.id)
        if start.id not in self._carried:
            carrying: Coroutine[Any, Any, None]
            if start.task:
                carrying = follow(self._tasks, start.credentials, start.task, tell)
            else:
                carrying = submit(self._tasks, partial(self._requests.start_worker, start), tell)
            self._carried[start.id] = self._spawn(carrying, start, f"the task of start {start.id}")
        if start.tasks and start.state is not StartState.PENDING and start.id not in self._nodes:
            ask = partial(self._requests.control, start, "state")
            watching = watch_node(self._tasks, ask, tell, interval=self._config.task_poll_s)
            self._nodes[start.id] = self._spawn(watching, start, f"the node of start {start.id}")

    def _let_go(self, start: Start, places: Collection[Place]) -> None:
        for kept in (self._carried, self._nodes):
            if (task := kept.pop(start.id, None)) is not None:
                task.cancel()
        if not start.revoked:
            # Until no router has its worker, and no node its vLLM: then nothing is left to do.
            settled = not places and self._is_stopped(start)
            revoke = partial(self._revoke, start.id, settled=settled)
            self._errands.run(f"revoke {start.id}", revoke, every=_REVOKE_AGAIN if settled else _REVOKE_LATER)

    def _end_worker(self, start: Start, places: Collection[Place]) -> None:
        if places:
            stop = partial(self._routers.stop, tuple(places), start.detail)
            self._errands.run(f"stop the worker of {start.id}", stop, every=_AGAIN)
        if start.tasks and start.task and start.id not in self._stops:
            stopping = stop_node(self._tasks, start, partial(self._requests.control, start, "stop"))
            self._stops[start.id] = self._spawn(stopping, start, f"the end of start {start.id}")

    def _is_stopped(self, start: Start) -> bool:
        stopping = self._stops.get(start.id)
        return not (start.tasks and start.task) or (stopping is not None and stopping.done())

    def _ask_queues(self, starts: Collection[Start], catalogue: Catalogue) -> None:
        queued = (start for start in starts if start.state is StartState.QUEUED)
        for cluster in {start.endpoint.partition("/endpoints/")[0] for start in queued}:
            known = catalogue.clusters.get(cluster)
            if known is not None and known.queue_status is not None:
                ask = partial(self._ask_queue, catalogue, cluster)
                self._errands.run(f"ask the queue of {cluster}", ask, every=self._config.queue_poll_s)

    def _tell(self, start: str, event: Event) -> None:
        self.events.append((start, event))
        self._happened()

    async def _revoke(self, start: str, *, settled: bool) -> None:
        await self._enrolment.revoke(start)
        if settled:
            self._tell(start, Revoked())

    async def _ask_queue(self, catalogue: Catalogue, cluster: str) -> None:
        await self._queues.ask(catalogue, cluster)
        self._happened()

    def _spawn(self, work: Coroutine[Any, Any, None], start: Start, name: str) -> asyncio.Task[None]:
        context = contextvars.copy_context()
        context.run(tracing.current.set, tracing.parse(start.place))  # for its logs, and for what auth is asked
        task = asyncio.get_running_loop().create_task(work, name=name, context=context)
        task.add_done_callback(partial(self._ended, start.id))
        return task

    def _ended(self, start: str, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            # An error of ours. The start is over, so that the next attempt is made; it would wait for ever.
            log.error("%s is carried no longer", task.get_name(), exc_info=error)
            self._tell(start, Failed(f"the launcher failed: {type(error).__name__}; its log says more", "other"))
        self._happened()
