"""Task mode: serves the endpoints whose calls travel as Globus tasks, attached to every router as their workers.

Two kinds. Workers that the launcher started, whose nodes cannot dial out: the launcher that acts tells which are ready,
and it alone serves them, under the start's own admission, so that the router's count of calls keeps them alive and auth
sees to it that there is one. Endpoints that no worker is started for: each launcher serves them for itself, as
nothing is decided about them and none need wait for the other to be taken for dead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from services.core.catalogue import Catalogue
from services.core.globus import GlobusBackend
from services.launcher.bridge_worker import BridgeParts, BridgeWorker
from services.launcher.task_workers import TaskWorker

log = logging.getLogger(__name__)

_FAREWELL: Final = 5.0
"""Seconds that leaving the routers, and giving back an enrolment, may take."""


class Bridge:
    """The workers that are served by tasks; a `TaskWorkers`."""

    def __init__(self, parts: BridgeParts) -> None:
        self._parts = parts
        self._workers: dict[TaskWorker, tuple[BridgeWorker, asyncio.Task[None]]] = {}
        self._ends: set[asyncio.Task[None]] = set()
        self._followed: frozenset[TaskWorker] = frozenset()
        self._unlaunched: frozenset[TaskWorker] = frozenset()
        self._closed = False

    @property
    def workers(self) -> tuple[BridgeWorker, ...]:
        """Those that are served now."""
        return tuple(worker for worker, _ in self._workers.values())

    def follow(self, workers: Iterable[TaskWorker]) -> None:
        """See `TaskWorkers.follow`."""
        self._followed = frozenset(workers)
        self._settle()

    def see(self, catalogue: Catalogue) -> None:
        """The catalogue as it is now: it says which endpoints are served without a start."""
        self._unlaunched = frozenset(
            TaskWorker("", name, 0)
            for name, endpoint in catalogue.endpoints.items()
            if isinstance(endpoint.backend, GlobusBackend)
            and endpoint.backend.launch is None
            and endpoint.backend.inference is not None
        )
        self._settle()
        for worker in self.workers:
            worker.send_report()

    async def close(self) -> None:
        """See `TaskWorkers.close`. Open calls have their grace."""
        self._closed = True
        self._settle()
        await asyncio.gather(*self._ends, return_exceptions=True)

    def _settle(self) -> None:
        wanted = frozenset() if self._closed else self._followed | self._unlaunched
        loop = asyncio.get_running_loop()
        for key in self._workers.keys() - wanted:
            worker, task = self._workers.pop(key)
            end = loop.create_task(_end(worker, task))
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)
        for key in wanted - self._workers.keys():
            worker = BridgeWorker(key, self._parts)
            log.info("calls to '%s' travel as tasks", key.endpoint, extra={"start": key.start, "slot": key.slot})
            self._workers[key] = (worker, loop.create_task(worker.run(), name=f"tasks of {key.endpoint}"))


async def _end(worker: BridgeWorker, task: asyncio.Task[None]) -> None:
    await worker.leave()
    await asyncio.wait({task}, timeout=_FAREWELL)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
