"""Calls as tasks: how many run, what becomes of those whose callers leave, and how an answer is paced."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.core.answers import collect
from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Head, Request
from services.globus.errors import GlobusError, Kind
from services.launcher import bridge_calls
from services.launcher.bridge_calls import MAX_BODY, TaskInference, TaskSlots
from services.launcher.task_trace import TaskTrace

E = "clusters/c/endpoints/e"
OK = {"status": 200, "headers": [["content-type", "text/event-stream"]], "body": "data: 1\n\ndata: [DONE]\n\n"}


@dataclass
class Task:
    """One task under way, in the hands of the test."""

    request: Request
    timeout: float
    wait: float
    trace: TaskTrace | None
    result: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Receiver:
    def __init__(self) -> None:
        self.items: list[Any] = []
        self.over = asyncio.Event()

    def head(self, head: Head) -> None:
        self.items.append(head.status)

    def data(self, chunk: bytes) -> None:
        self.items.append(chunk)

    def end(self) -> None:
        self.items.append("end")
        self.over.set()

    def fail(self, error: ServiceError) -> None:
        self.items.append(error.reason)
        self.over.set()


class World:
    def __init__(self, slots: TaskSlots, bounds: Bounds | None = None) -> None:
        self.tasks: list[Task] = []
        self.inference = TaskInference(E, self._run, slots=slots, bounds=bounds or Bounds())

    async def _run(self, request: Request, *, timeout: float, wait: float, trace: TaskTrace | None) -> Any:
        self.tasks.append(Task(request, timeout, wait, trace))
        return await asyncio.shield(self.tasks[-1].result)

    def open(self, body: bytes = b"{}", *, credit: int = 1 << 20, **how: Any) -> tuple[Call, Receiver]:
        receiver = Receiver()
        return self.inference.open(Request("/v1/completions", (), body, **how), receiver, credit), receiver


@pytest.fixture
def world() -> World:
    return World(TaskSlots(tasks=2, waiting=1))


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_answer_comes_whole_and_a_stream_as_one_sequence_of_events(world: World) -> None:
    answer = asyncio.create_task(collect(world.inference, Request("/v1/chat/completions", (), b"{}")))
    await turns()
    world.tasks[0].result.set_result(OK)
    head, body = await answer
    assert (head.status, head.header("content-type"), body) == (200, "text/event-stream", OK["body"].encode())  # type: ignore[attr-defined]
    assert world.inference.running == 0


async def test_so_many_run_so_many_wait_and_others_are_refused_for_now(world: World) -> None:
    calls = [world.open(b"%d" % n) for n in range(4)]
    await turns()
    assert [task.request.body for task in world.tasks] == [b"0", b"1"]
    assert calls[3][1].items == [Reason.OVERLOADED]
    world.tasks[1].result.set_result(OK)
    await turns()
    assert [task.request.body for task in world.tasks] == [b"0", b"1", b"2"]


async def test_who_leaves_gives_up_the_answer_and_the_task_keeps_its_slot(world: World) -> None:
    first, receiver = world.open()
    world.open()
    _, waiting = world.open()
    await turns()
    first.cancel()
    await turns()
    assert len(world.tasks) == 2, "a slot is free only when its task has ended"
    assert not world.tasks[0].result.cancelled()
    world.tasks[0].result.set_result(OK)
    await turns()
    assert len(world.tasks) == 3
    assert receiver.items == waiting.items == []


async def test_who_leaves_before_his_task_is_submitted_has_none(world: World) -> None:
    world.open()
    world.open()
    third, _ = world.open()
    await turns()
    third.cancel()
    _, fourth = world.open(b"fourth")
    await turns()
    assert fourth.items == [], "it has the place of the third"
    world.tasks[0].result.set_result(OK)
    await turns()
    assert [task.request.body for task in world.tasks] == [b"{}", b"{}", b"fourth"]


async def test_an_answer_goes_out_as_fast_as_it_is_granted(world: World) -> None:
    call, receiver = world.open(credit=4)
    await turns()
    world.tasks[0].result.set_result({**OK, "body": "0123456789"})
    await turns()
    assert receiver.items == [200, b"0123"]
    call.grant(3)
    call.grant(100)
    assert receiver.items == [200, b"0123", b"456", b"789", "end"]


async def test_answers_that_wait_for_slow_callers_hold_up_new_tasks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_calls, "_HELD", 10)
    slow, _ = world.open(credit=0)
    await turns()
    world.tasks[0].result.set_result({**OK, "body": "0123456789"})
    await turns()
    world.open()
    await turns()
    assert len(world.tasks) == 1
    slow.cancel()
    await turns()
    assert len(world.tasks) == 2


async def test_the_function_is_told_how_long_the_caller_waits(world: World) -> None:
    world.open(timeout=60.0, first_byte_timeout=30.0)
    await turns()
    (task,) = world.tasks
    assert 57 < task.timeout <= 59
    assert 27 < task.wait <= 29


async def test_a_task_that_does_not_end_in_time_is_given_up_and_keeps_its_slot() -> None:
    world = World(TaskSlots(tasks=1, waiting=1), Bounds(first_byte=0.02, stall=1, total=1))
    _, receiver = world.open()
    async with asyncio.timeout(10):
        await receiver.over.wait()
    assert receiver.items == [Reason.FIRST_BYTE_TIMEOUT]
    assert world.inference.running == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GlobusError(Kind.OFFLINE, "It is offline."), Reason.UPSTREAM_UNREACHABLE),
        (ServiceError(Reason.HEADER_INVALID), Reason.HEADER_INVALID),
        (ZeroDivisionError(), Reason.INTERNAL),
    ],
)
async def test_a_failure_reaches_the_caller_and_frees_the_slot(world: World, error: Exception, reason: Reason) -> None:
    _, receiver = world.open()
    await turns()
    world.tasks[0].result.set_exception(error)
    await turns()
    assert receiver.items == [reason]
    assert world.inference.running == 0


async def test_a_body_that_no_task_carries_is_refused_at_once(world: World) -> None:
    _, receiver = world.open(b"x" * (MAX_BODY + 1))
    assert receiver.items == [], "never before open has returned"
    await turns()
    assert receiver.items == [Reason.BODY_TOO_LARGE]
    assert not world.tasks


async def test_closing_ends_the_calls_and_not_their_tasks(world: World) -> None:
    receivers = [world.open()[1] for _ in range(3)]
    await turns()
    world.inference.close()
    await turns()
    assert [receiver.items for receiver in receivers] == [[Reason.SHUTTING_DOWN]] * 3
    assert not any(task.result.cancelled() for task in world.tasks)
    _, late = world.open()
    await turns()
    assert late.items == [Reason.SHUTTING_DOWN]
