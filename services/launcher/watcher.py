"""Carries the task of one start: submits it, hears its result, and looks after its node where calls travel as tasks."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from services.core.errors import Reason, ServiceError
from services.globus.errors import GlobusError, Kind
from services.launcher.machine import Outcome, short
from services.launcher.starts import Start
from services.launcher.tasks import TaskRunner

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_FOLLOW: Final = 10.0
"""Seconds between the first two questions about a task that another process submitted, or another run of this one; of
hundreds that run for days, each is asked for less and less often."""
_LONGEST_FOLLOW: Final = 60.0
_STOP: Final = 15.0
"""Seconds between the first two attempts to have a node end its vLLM; the others come later and later."""
_LONGEST_STOP: Final = 300.0
_BELIEVED: Final = 4
_PASSING: Final = (Reason.AUTH_UNAVAILABLE, Reason.REGISTRY_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Submitted:
    """Globus has the task."""

    task: str


@dataclass(frozen=True, slots=True)
class Delayed:
    """The task could not be submitted yet."""

    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The task has ended."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no result; `outcome` is a word for counting."""

    why: str
    outcome: str


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """What the node of a start says whose calls travel as tasks."""

    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """Auth admits nobody for the start any more, and no router has a worker of it."""


Event = Submitted | Delayed | Ended | Failed | NodeSeen | Revoked
Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Submission:
    """A task, ready to be submitted."""

    credentials: str
    endpoint_uuid: str
    function_uuid: str
    payload: Mapping[str, Any] = field(repr=False)  # it may hold an enrolment token
    user_endpoint_config: Mapping[str, Any]

    async def run(self, tasks: TaskRunner, submitted: Callable[[str], None] = lambda task_id: None) -> Any:
        """Its result. Raises `GlobusError`."""
        return await tasks.run(
            self.credentials,
            self.endpoint_uuid,
            self.function_uuid,
            self.payload,
            user_endpoint_config=self.user_endpoint_config,
            submitted=submitted,
        )


Prepare = Callable[[], Awaitable[Submission]]
"""Makes a task. Raises `GlobusError`, or what auth raises."""


async def submit(tasks: TaskRunner, prepare: Prepare, tell: Tell, *, pause: float = _FIRST_PAUSE) -> None:
    """Submits a start's task and tells its end. While auth or Globus are away, it is prepared and submitted again, at
    first after `pause` seconds.
    """
    sent = ""

    def submitted(task: str) -> None:
        nonlocal sent
        sent = task
        tell(Submitted(task))

    while True:
        try:
            submission = await prepare()
            tell(Ended(Outcome.read(await submission.run(tasks, submitted))))
            return
        except GlobusError as error:
            if error.kind is not Kind.SERVICE_UNAVAILABLE or sent:
                tell(Failed(str(error), error.kind.value))
                return
            why = str(error)
        except ServiceError as error:
            if error.reason not in _PASSING:
                tell(Failed(str(error), "other"))
                return
            why = str(error)
        tell(Delayed(why))
        await asyncio.sleep(random.uniform(pause / 2, pause))
        pause = min(pause * 2, _LONGEST_PAUSE)


async def follow(tasks: TaskRunner, credentials: str, task: str, tell: Tell, *, interval: float = _FOLLOW) -> None:
    """Waits for a task that was submitted before, and tells its end."""
    said = ""
    while True:
        try:
            state = await tasks.task_state(credentials, task)
            if not state.pending:
                error = state.error
                tell(Ended(Outcome.read(state.result)) if error is None else Failed(str(error), error.kind.value))
                return
        except GlobusError as error:
            if said != (said := str(error)):
                log.warning("cannot ask how task %s is: %s", task, said)
        await asyncio.sleep(interval)
        interval = min(1.5 * interval, _LONGEST_FOLLOW)


async def stop_node(tasks: TaskRunner, start: Start, prepare: Prepare, *, interval: float = _STOP) -> None:
    """Asks the node of a start whose calls travel as tasks to end its vLLM, until it does or its task is over: nothing
    else would, and a job that is still in the queue cannot be cancelled. It answers when its job has begun. One that
    has answered several times that it runs no such thing is believed, as a task whose agent was killed may never end.
    """
    said, denied = "", 0
    while denied < _BELIEVED:
        try:
            if not (await tasks.task_state(start.credentials, start.task)).pending:
                return
            submission = await prepare()
            answer = await submission.run(tasks)
            if isinstance(answer, Mapping) and answer.get("stopped"):
                return
            denied += 1
        except (GlobusError, ServiceError) as error:
            if said != (said := str(error)):
                log.warning("cannot ask a node to end its vLLM: %s", said, extra={"start": start.id})
        await asyncio.sleep(interval)
        interval = min(2 * interval, _LONGEST_STOP)


async def watch_node(tasks: TaskRunner, prepare: Prepare, tell: Tell, *, interval: float) -> None:
    """Asks a node by tasks until its vLLM answers. The first answer comes when its job has begun."""
    said = ""
    while True:
        try:
            submission = await prepare()
            answer = await submission.run(tasks)
            found = answer if isinstance(answer, Mapping) else {}
            state = str(found.get("state", "none"))
            if state != "none":
                tell(NodeSeen(state, short(found.get("detail"))))
            if state == "ready":
                return
        except (GlobusError, ServiceError) as error:
            if said != (said := str(error)):
                log.warning("cannot ask a node for its vLLM: %s", said)
        await asyncio.sleep(interval)
