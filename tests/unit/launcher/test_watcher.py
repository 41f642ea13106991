"""A start's task: submitted until it is, never twice, and followed to its end."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from services.core.errors import Reason, ServiceError
from services.globus.errors import GlobusError, Kind
from services.launcher.machine import Outcome
from services.launcher.watcher import (
    Delayed,
    Ended,
    Event,
    Failed,
    NodeSeen,
    Submission,
    Submitted,
    follow,
    submit,
    watch_node,
)

AWAY = GlobusError(Kind.SERVICE_UNAVAILABLE, "Globus is away.", "")
OFFLINE = GlobusError(Kind.OFFLINE, "It is offline.", "Start it.")


@dataclass(frozen=True)
class State:
    pending: bool
    result: Any = None
    error: GlobusError | None = None


class Tasks:
    """Answers from a script: a result, an error, or a task id that is told before the next."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.payloads: list[Mapping[str, Any]] = []

    async def run(
        self,
        credentials: str,
        endpoint_uuid: str,
        function_uuid: str,
        payload: Mapping[str, Any],
        user_endpoint_config: Mapping[str, Any] | None = None,
        submitted: Callable[[str], None] = lambda task_id: None,
    ) -> Any:
        self.payloads.append(payload)
        while isinstance(answer := self.script.pop(0), str):
            submitted(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def task_state(self, credentials: str, task_id: str) -> Any:
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def allowed_functions(self, credentials: str, endpoint_uuid: str) -> frozenset[str] | None:
        raise NotImplementedError

    async def endpoint_status(self, credentials: str, endpoint_uuid: str) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        pass


async def prepared() -> Submission:
    return Submission("default", "endpoint", "function", {"start": "a"}, {})


async def submitted(tasks: Tasks, prepare: Callable[[], Any] = prepared) -> list[Event]:
    told: list[Event] = []
    await submit(tasks, prepare, told.append, pause=0.0)
    assert not tasks.script
    return told


async def test_the_task_and_its_end_are_told() -> None:
    told = await submitted(Tasks("task-1", {"outcome": "stopped", "detail": "drained"}))
    assert told == [Submitted("task-1"), Ended(Outcome("stopped", "drained"))]


async def test_while_globus_is_away_it_is_tried_again() -> None:
    told = await submitted(Tasks(AWAY, AWAY, "task-1", {"outcome": "stopped"}))
    assert told == [
        Delayed("Globus is away."),
        Delayed("Globus is away."),
        Submitted("task-1"),
        Ended(Outcome("stopped")),
    ]


async def test_a_task_that_was_submitted_is_not_submitted_again() -> None:
    told = await submitted(Tasks("task-1", AWAY))
    assert told == [Submitted("task-1"), Failed("Globus is away.", "service_unavailable")]


async def test_a_refusal_of_globus_is_final() -> None:
    assert await submitted(Tasks(OFFLINE)) == [Failed("It is offline. Start it.", "offline")]


@pytest.mark.parametrize(("reason", "passes"), [(Reason.AUTH_UNAVAILABLE, True), (Reason.ACTION_FORBIDDEN, False)])
async def test_while_auth_is_away_nothing_is_submitted(reason: Reason, passes: bool) -> None:
    errors = [ServiceError(reason, "no token")]

    async def prepare() -> Submission:
        if errors:
            raise errors.pop()
        return await prepared()

    tasks = Tasks(*(["task-1", {"outcome": "stopped"}] if passes else []))
    told = await submitted(tasks, prepare)
    assert told[0] == (Delayed("no token") if passes else Failed("no token", "other"))
    assert len(tasks.payloads) == passes


async def test_a_task_of_another_run_is_followed_to_its_end() -> None:
    told: list[Event] = []
    tasks = Tasks(State(pending=True), AWAY, State(pending=False, result={"outcome": "walltime"}))
    await follow(tasks, "default", "task-1", told.append, interval=0)
    assert told == [Ended(Outcome("walltime"))]
    await follow(Tasks(State(pending=False, error=OFFLINE)), "default", "task-1", told.append, interval=0)
    assert told[1:] == [Failed("It is offline. Start it.", "offline")]


async def test_a_node_is_asked_until_its_vllm_answers() -> None:
    told: list[Event] = []
    answers = ({"state": "none"}, AWAY, {"state": "starting", "detail": "loading"}, None, {"state": "ready"})
    tasks = Tasks(*answers)
    await watch_node(tasks, prepared, told.append, interval=0)
    assert told == [NodeSeen("starting", "loading"), NodeSeen("ready", "")]
    assert len(tasks.payloads) == len(answers)


async def test_whoever_is_cancelled_leaves() -> None:
    told = asyncio.Event()
    watching = asyncio.ensure_future(submit(Tasks(*[AWAY] * 5), prepared, lambda event: told.set(), pause=60.0))
    await told.wait()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
