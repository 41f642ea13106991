"""Tasks: what becomes of one when the SDK's Executor does what Executors do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from typing import Any

import pytest
from globus_compute_sdk.errors import TaskExecutionFailed

from services.globus.errors import GlobusError, Kind
from services.globus.tasks import TaskLimits, Tasks

ENDPOINT, FUNCTION = "e", "f"


class Executor:
    """An Executor in the hands of a test: `futures` are those it took, with what they are for."""

    def __init__(
        self,
        client: Any,
        endpoint_uuid: str,
        config: Mapping[str, Any],
        *,
        batch: int,
        submitted: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.endpoint_uuid, self.config, self.batch = endpoint_uuid, config, batch
        self.submitted, self.ended = submitted, ended
        self.futures: list[Future[Any]] = []
        self.payloads: list[Any] = []
        self.shut = False
        self.abandoned = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def submit_to_registered_function(self, function_id: str, args: tuple[Any, ...]) -> Future[Any]:
        if self.shut:
            raise RuntimeError("it is shutdown; no new functions may be executed")
        self.futures.append(Future())
        self.payloads.append(args[0])
        return self.futures[-1]

    def accept(self, *task_ids: str) -> None:
        """The service has taken the tasks."""
        for future, task_id in zip(self.futures, task_ids, strict=False):
            future.task_id = task_id  # type: ignore[attr-defined]
        self.submitted()

    def abandon(self) -> None:
        self.may_end.wait(10)
        for future in self.futures:
            future.cancel()
        self.abandoned.set()


class Client:
    """The service's answers about tasks, by id; and a note of each question."""

    def __init__(self) -> None:
        self.tasks: dict[str, Any] = {}
        self.asked: list[str] = []
        self._task_status_table: dict[str, Any] = {}

    def get_task(self, task_id: str) -> dict[str, Any]:
        self.asked.append(task_id)
        self._task_status_table[task_id] = "kept for ever"
        answer = self.tasks[task_id]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


class World:
    """Tasks, with Executors and a service that do as they are told."""

    def __init__(self, limits: TaskLimits) -> None:
        self.client = Client()
        self.clients_made = 0
        self.executors: list[Executor] = []
        self.tasks = Tasks(self._make_client, limits=limits, executor=self._make_executor)

    def _make_client(self, credentials: str) -> Any:
        if credentials != "default":
            raise GlobusError(Kind.BAD_CREDENTIALS, "There are no such credentials.")
        self.clients_made += 1
        return self.client

    def _make_executor(self, *args: Any, **kwargs: Any) -> Executor:
        self.executors.append(Executor(*args, **kwargs))
        return self.executors[-1]

    async def start(self, payload: Mapping[str, Any] | None = None, **how: Any) -> asyncio.Task[Any]:
        """A task, once an Executor has it."""
        before = sum(len(executor.futures) for executor in self.executors)
        run = self.tasks.run("default", ENDPOINT, how.pop("function", FUNCTION), payload or {}, **how)
        task = asyncio.create_task(run)
        await self.until(lambda: sum(len(executor.futures) for executor in self.executors) > before or task.done())
        return task

    async def until(self, true: Callable[[], bool]) -> None:
        """Waits until what threads and the loop do has made it so."""
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110 - fakes have no events
                await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(TaskLimits(look=3600))
    yield world
    for executor in world.executors:
        executor.may_end.set()
    await world.tasks.close()


async def test_a_task_runs_and_its_id_is_told_before_its_result(world: World) -> None:
    told: list[str] = []
    task = await world.start({"n": 1}, user_endpoint_config={"weft_slot": 2}, submitted=told.append)
    (executor,) = world.executors
    assert (executor.payloads, executor.config) == ([{"n": 1}], {"weft_slot": 2})
    executor.accept("task-1")
    await world.until(lambda: told == ["task-1"])
    executor.futures[0].set_result({"ok": True})
    assert await task == {"ok": True}
    assert world.tasks.in_flight == 0


async def test_tasks_that_have_everything_in_common_share_an_executor_and_others_do_not(world: World) -> None:
    await world.start(user_endpoint_config={"a": 1, "b": 2})
    await world.start(user_endpoint_config={"b": 2, "a": 1})
    assert len(world.executors) == 1
    await world.start(user_endpoint_config={"a": 2})
    await world.start(user_endpoint_config={"a": 1, "b": 2}, function="g")
    assert len(world.executors) == 3
    assert world.clients_made == 1


async def test_a_caller_who_leaves_cancels_no_future(world: World) -> None:
    task = await world.start()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (future,) = world.executors[0].futures
    assert not future.cancelled()
    assert world.tasks.in_flight == 1
    future.set_result(None)
    await world.until(lambda: world.tasks.in_flight == 0)


async def test_a_task_whose_caller_has_left_is_forgotten_once_it_is_submitted(world: World) -> None:
    task = await world.start()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.tasks.look()
    assert world.tasks.in_flight == 1, "it is still to be submitted"
    world.executors[0].accept("task-1")
    await world.until(lambda: all(flight.task_id for flight in world.tasks._flights))
    await world.tasks.look()
    assert (world.tasks.in_flight, world.client.asked) == (0, [])
    assert not world.executors[0].futures[0].cancelled()
    world.executors[0].futures[0].set_result(1)  # late, and for nobody


async def test_an_error_at_the_node_and_one_at_the_service_are_told_apart(world: World) -> None:
    first, second = await world.start(), await world.start()
    executor = world.executors[0]
    executor.accept("task-1")
    executor.futures[0].set_exception(TaskExecutionFailed("Traceback …\nKeyError: 'x'"))
    executor.futures[1].set_exception(OSError("no route to host"))
    with pytest.raises(GlobusError, match="KeyError: 'x'") as failed:
        await first
    with pytest.raises(GlobusError, match="no route to host") as away:
        await second
    assert [failed.value.kind, away.value.kind] == [Kind.TASK_FAILED, Kind.SERVICE_UNAVAILABLE]


async def test_after_a_failed_submit_the_next_task_gets_a_new_executor_and_no_other_task_is_lost(world: World) -> None:
    flying, refused, gathered = [await world.start({"n": n}) for n in range(3)]
    first = world.executors[0]
    first.accept("task-0")
    first.futures[1].set_exception(OSError("it is away"))
    first.shut = True
    first.ended()
    with pytest.raises(GlobusError):
        await refused
    # What had been gathered and never submitted goes by a new one; the SDK would never resolve it.
    await world.until(lambda: len(world.executors) == 2)
    second = world.executors[1]
    assert second.payloads == [{"n": 2}]
    second.futures[0].set_result("second")
    assert await gathered == "second"
    # What flies goes on by the old one, which ends after it.
    assert not first.abandoned.is_set()
    first.futures[0].set_result("first")
    assert await flying == "first"
    await world.until(first.abandoned.is_set)


async def test_a_task_that_the_sdk_cancels_before_it_is_submitted_is_submitted_again(world: World) -> None:
    told: list[str] = []
    task = await world.start(happened=told.append)
    first = world.executors[0]
    first.shut = True
    first.futures[0].cancel()
    first.ended()
    await world.until(lambda: len(world.executors) == 2)
    world.executors[1].futures[0].set_result(1)
    assert await task == 1
    assert told == ["not submitted"]


async def test_a_task_is_not_submitted_again_for_ever(world: World) -> None:
    task = await world.start()
    for n in range(3):
        await world.until(lambda n=n: len(world.executors) == n + 1)  # type: ignore[misc]
        world.executors[n].shut = True
        world.executors[n].ended()
    with pytest.raises(GlobusError) as error:
        await task
    assert error.value.kind is Kind.SERVICE_UNAVAILABLE
    assert len(world.executors) == 3


async def test_a_task_whose_results_stream_is_lost_is_asked_for(world: World) -> None:
    task = await world.start()
    executor = world.executors[0]
    executor.accept("task-1")
    executor.futures[0].set_exception(RuntimeError("SDK thread quit unexpectedly."))
    await world.until(lambda: not world.tasks._seats._open[next(iter(world.tasks._seats._open))].flights)
    world.client.tasks["task-1"] = OSError("the service is away, too")
    await world.tasks.look()
    world.client.tasks["task-1"] = {"pending": True, "status": "running"}
    await world.tasks.look()
    assert not task.done()
    world.client.tasks["task-1"] = {"pending": False, "status": "success", "result": 7}
    await world.tasks.look()
    assert await task == 7
    assert world.client.asked == ["task-1"] * 3
    assert not world.client._task_status_table, "the SDK keeps every result"


async def test_a_task_that_was_lost_long_ago_is_asked_for_less_often(world: World) -> None:
    task = await world.start()
    world.executors[0].accept("task-1")
    world.executors[0].futures[0].set_exception(RuntimeError("the stream broke"))
    await world.until(lambda: all(flight.lost_at for flight in world.tasks._flights))
    world.client.tasks["task-1"] = {"pending": True}
    (flight,) = world.tasks._flights
    await world.tasks.look()
    assert flight.lost_at is not None
    for ago, asked in [(30.0, 2), (1000.0, 2), (10_000.0, 2)]:  # a young one at once, an old one later
        flight.lost_at = world.tasks._loop.time() - ago
        await world.tasks.look()
        assert len(world.client.asked) == asked
    flight.looked_at -= TaskLimits().quiet
    await world.tasks.look()
    assert len(world.client.asked) == 3
    task.cancel()


async def test_a_service_that_is_away_is_told_of_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    task = await world.start()
    world.executors[0].accept("task-1")
    world.executors[0].futures[0].set_exception(RuntimeError("the stream broke"))
    await world.until(lambda: all(flight.lost_at for flight in world.tasks._flights))
    for answer, told in [(OSError("away"), 1), (OSError("away"), 1), ({"pending": True}, 1), (OSError("away"), 2)]:
        world.client.tasks["task-1"] = answer
        await world.tasks.look()
        assert caplog.text.count("could not be asked") == told
    task.cancel()


async def test_a_stream_that_is_silent_for_long_is_not_believed() -> None:
    world = World(TaskLimits(look=3600, quiet=0))
    task = await world.start()
    world.executors[0].accept("task-1")
    await world.until(lambda: all(flight.task_id for flight in world.tasks._flights))
    world.client.tasks["task-1"] = {"pending": False, "status": "success", "result": 7}
    await world.tasks.look()
    assert await task == 7
    world.executors[0].futures[0].set_result(8)  # the stream after all
    await world.tasks.close()


async def test_a_task_that_was_submitted_before_can_be_asked_for(world: World) -> None:
    world.client.tasks["old"] = TaskExecutionFailed("ValueError: x")
    state = await world.tasks.task_state("default", "old")
    assert not state.pending
    assert state.error is not None
    assert state.error.kind is Kind.TASK_FAILED


async def test_a_payload_that_is_too_large_is_refused_before_anything_is_submitted(world: World) -> None:
    with pytest.raises(GlobusError, match=r"10\.1 MiB as a task, and Globus Compute carries 10 MiB") as error:
        await world.tasks.run("default", ENDPOINT, FUNCTION, {"body": "x" * (10 * 2**20)})
    assert error.value.kind is Kind.TOO_LARGE
    assert not world.executors


async def test_large_tasks_are_submitted_one_by_one(world: World) -> None:
    await world.start({"body": "x" * 2**20})
    await world.start({"body": "x"})
    assert [executor.batch for executor in world.executors] == [1, 128]


async def test_an_executor_that_cannot_be_made_fails_its_task_and_no_other(world: World) -> None:
    make = world.tasks._make_executor

    def refuse(*args: Any, **kwargs: Any) -> Executor:
        raise ValueError("badly formed hexadecimal UUID string")

    world.tasks._make_executor = refuse
    with pytest.raises(GlobusError, match="badly formed"):
        await world.tasks.run("default", "no uuid", FUNCTION, {})
    world.tasks._make_executor = make
    task = await world.start()
    world.executors[0].futures[0].set_result(1)
    assert await task == 1


async def test_credentials_that_do_not_serve_are_told_at_once(world: World) -> None:
    with pytest.raises(GlobusError, match="no such credentials"):
        await world.tasks.run("other", ENDPOINT, FUNCTION, {})
    assert world.tasks.in_flight == 0


async def test_beyond_the_bound_the_longest_unused_executor_goes_and_its_tasks_are_asked_for() -> None:
    world = World(TaskLimits(look=3600, executors=1))
    task = await world.start()
    first = world.executors[0]
    first.accept("task-1")
    await world.until(lambda: all(flight.task_id for flight in world.tasks._flights))
    other = await world.start(function="g")
    await world.until(first.abandoned.is_set)
    await world.until(lambda: any(flight.lost_at for flight in world.tasks._flights))
    world.client.tasks["task-1"] = {"pending": False, "status": "success", "result": 7}
    await world.tasks.look()
    assert await task == 7
    assert not other.done()
    await world.tasks.close()
    await asyncio.gather(other, return_exceptions=True)


async def test_an_idle_executor_is_closed_and_a_busy_one_is_not() -> None:
    world = World(TaskLimits(look=3600, idle=-1))
    idle = await world.start(function="g")
    busy = await world.start()
    world.executors[0].futures[0].set_result(1)
    await idle
    await world.tasks.look()
    await world.until(world.executors[0].abandoned.is_set)
    assert not world.executors[1].abandoned.is_set()
    await world.tasks.close()
    await asyncio.gather(busy, return_exceptions=True)


async def test_closing_is_bounded_though_an_executor_never_ends(world: World) -> None:
    task = await world.start()
    world.executors[0].may_end.clear()
    await world.tasks.close(patience=0.01)
    with pytest.raises(GlobusError, match="goes on at its endpoint"):
        await task
    with pytest.raises(GlobusError, match="shutting down"):
        await world.tasks.run("default", ENDPOINT, FUNCTION, {})
