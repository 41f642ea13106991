"""The queues of clusters, asked by `functions/queue-status`: one question serves all who ask within some seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from services.core.catalogue import Catalogue
from services.core.errors import Reason, ServiceError
from services.core.globus import GlobusBackend
from services.globus.errors import GlobusError
from services.launcher.functions import Functions
from services.launcher.machine import Queued, short
from services.launcher.tasks import DEFAULT_CREDENTIALS, QUEUE_STATUS, TaskRunner

PATIENCE: Final = 60.0
"""Seconds that whoever asks waits for a cluster's answer."""

_LONGEST: Final = 600.0
"""Seconds after which a question without an answer is asked anew. Until then those who ask wait for the same one: the
tasks of a login node that is offline would heap up, and all run once it is back.
"""

_FORMATS: Final = (
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M:%S",
    "%a %b %d %H:%M:%S %Y",
    "%a %b %d %H:%M %Y",
)
_LAST: Final = 4_102_444_800.0  # the year 2100: what is beyond is a scheduler's way to say that it does not know
_MOST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Job:
    """A job, as `weft.launcher.v1.QueuedJob`."""

    id: str
    state: str = "other"
    scheduler_state: str = ""
    models: tuple[str, ...] = ()
    framework: str = ""
    endpoint: str = ""
    slot: int = 0
    hosts: str = ""
    comment: str = ""
    nodes: int = 0
    walltime: str = ""
    expected_start: str = ""
    position: int = 0
    batch: bool = False

    def queued(self) -> Queued:
        """What it means for the start that it belongs to."""
        return Queued(self.id, self.state == "running", self.position, to_time(self.expected_start), self.comment)


@dataclass(frozen=True, slots=True)
class Queue:
    """A cluster's queue; `asked_at` in seconds since 1970."""

    asked_at: float
    jobs: tuple[Job, ...] = ()
    free_nodes: int = 0
    total_nodes: int = 0

    def job_of(self, endpoint: str, slot: int) -> Job | None:
        """The job of a start, if it is there; of several, the one that runs."""
        ours = [job for job in self.jobs if (job.endpoint, job.slot, job.batch) == (endpoint, slot, False)]
        return min(ours, key=lambda job: job.state != "running", default=None)


class Queues:
    """Asks clusters for their queues. `age` is how old an answer may be that is given, in seconds."""

    def __init__(
        self,
        tasks: TaskRunner,
        functions: Functions,
        *,
        age: float,
        clock: Callable[[], float] = time.time,
        patience: float = PATIENCE,
    ) -> None:
        self._tasks = tasks
        self._functions = functions
        self._age = age
        self._clock = clock
        self._patience = patience
        self._last: dict[str, Queue] = {}
        self._asking: dict[str, asyncio.Task[Queue]] = {}

    def last(self, cluster: str) -> Queue | None:
        """The last answer, however old."""
        return self._last.get(cluster)

    async def ask(self, catalogue: Catalogue, cluster: str) -> Queue:
        """The queue. Raises RESOURCE_NOT_FOUND if the cluster has none to ask, UPSTREAM_UNREACHABLE if it does not
        answer within `PATIENCE`; its late answer serves those who ask then.
        """
        known = self._last.get(cluster)
        if known is not None and self._clock() - known.asked_at < self._age:
            return known
        asking = self._asking.get(cluster)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._ask(catalogue, cluster))
            self._asking[cluster] = asking
            asking.add_done_callback(lambda done: self._asked(cluster, done))
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(asking)
        except TimeoutError:
            raise _silent(cluster, self._patience) from None

    async def close(self) -> None:
        """Ends the questions that are under way."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _asked(self, cluster: str, done: asyncio.Task[Queue]) -> None:
        self._asking.pop(cluster, None)
        if not done.cancelled() and done.exception() is None:
            self._last[cluster] = done.result()

    async def _ask(self, catalogue: Catalogue, name: str) -> Queue:
        cluster = catalogue.clusters.get(name)
        at = cluster.queue_status if cluster is not None else None
        if cluster is None or at is None:
            message = f"'{name}' has no queue to ask: set its 'queue_status' to the endpoint on its login node."
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, message, param="cluster")
        asked_at = self._clock()
        try:
            async with asyncio.timeout(_LONGEST):
                credentials = _credentials(catalogue, name)
                function = await self._functions.find(catalogue, QUEUE_STATUS, at, credentials)
                payload = {"scheduler": "auto", "user": None}
                answer = await self._tasks.run(credentials, at.endpoint_uuid, function, payload)
        except TimeoutError:
            raise _silent(name, _LONGEST) from None
        except GlobusError as error:
            raise ServiceError(
                Reason.UPSTREAM_UNREACHABLE, f"The queue of '{name}' cannot be asked: {error}"
            ) from error
        return read_queue(answer, asked_at, name)


def _silent(cluster: str, patience: float) -> ServiceError:
    return ServiceError(Reason.UPSTREAM_UNREACHABLE, f"The queue of '{cluster}' did not come within {patience:g} s.")


def _credentials(catalogue: Catalogue, cluster: str) -> str:
    """Those of the first of its endpoints that has any."""
    backends = (endpoint.backend for endpoint in catalogue.endpoints.values() if endpoint.cluster == cluster)
    named = (backend.credentials for backend in backends if isinstance(backend, GlobusBackend))
    return next(filter(None, named), DEFAULT_CREDENTIALS)


def read_queue(answer: Any, asked_at: float, cluster: str) -> Queue:
    """What the function answered. Raises UPSTREAM_BROKEN if it found no queue, or answered something else."""
    found: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {"error": "its answer cannot be read"}
    if error := found.get("error"):
        raise ServiceError(Reason.UPSTREAM_BROKEN, f"The queue of '{cluster}' cannot be read: {error}")
    jobs = tuple(_read_job(job) for job in found.get("jobs") or () if isinstance(job, Mapping))
    return Queue(asked_at, jobs, _number(found.get("free_nodes")), _number(found.get("total_nodes")))


def _read_job(job: Mapping[str, Any]) -> Job:
    models = job.get("models") or ()
    return Job(
        id=short(job.get("id")),
        state=short(job.get("state")) or "other",
        scheduler_state=short(job.get("scheduler_state")),
        models=(models,) if isinstance(models, str) else tuple(map(short, models)),
        framework=short(job.get("framework")),
        endpoint=short(job.get("endpoint")),
        slot=_number(job.get("slot")),
        hosts=short(job.get("hosts")),
        comment=short(job.get("comment")),
        nodes=_number(job.get("nodes")),
        walltime=short(job.get("walltime")),
        expected_start=short(job.get("expected_start")),
        position=_number(job.get("position")),
        batch=bool(job.get("batch")),
    )


def _number(value: Any) -> int:
    try:
        return min(max(0, int(value or 0)), _MOST)
    except (TypeError, ValueError, OverflowError):
        return 0


def to_time(text: str) -> float | None:
    """A scheduler's time, in seconds since 1970: a number, or Slurm's or PBS's format in local time. None for what says
    nothing.
    """
    try:
        number = float(text)
    except ValueError:
        number = _read_time(text.strip())
    return number if 0 < number < _LAST else None


def _read_time(text: str) -> float:
    for form in _FORMATS:
        try:
            return datetime.strptime(text, form).timestamp()
        except (ValueError, OverflowError):
            continue
    return 0.0
