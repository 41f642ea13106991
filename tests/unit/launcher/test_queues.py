"""A cluster's queue: asked once for all who ask, and read whatever it says."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import pytest

from services.core.catalogue import Catalogue, Cluster, Endpoint
from services.core.errors import Reason, ServiceError
from services.core.globus import Function, FunctionVersion, GlobusBackend, GlobusFunction
from services.globus.errors import GlobusError, Kind
from services.launcher.functions import Functions
from services.launcher.messages import to_queue
from services.launcher.queues import Job, Queue, Queues, read_queue, to_time
from services.launcher.tasks import QUEUE_STATUS

LOGIN = "login-endpoint"
CLUSTER = Cluster("clusters/c", queue_status=GlobusFunction(LOGIN, "f"))


class Tasks:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.allowed: frozenset[str] | None = None

    async def run(
        self,
        credentials: str,
        endpoint_uuid: str,
        function_uuid: str,
        payload: Mapping[str, Any],
        user_endpoint_config: Mapping[str, Any] | None = None,
        submitted: Callable[[str], None] = lambda task_id: None,
    ) -> Any:
        self.asked.append((credentials, endpoint_uuid, function_uuid))
        return await asyncio.shield(self.answer)

    async def allowed_functions(self, credentials: str, endpoint_uuid: str) -> frozenset[str] | None:
        return self.allowed

    async def endpoint_status(self, credentials: str, endpoint_uuid: str) -> Any:
        raise NotImplementedError

    async def task_state(self, credentials: str, task_id: str) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def queues(tasks: Tasks, clock: Clock, patience: float = 60.0) -> Queues:
    return Queues(tasks, Functions(tasks), age=10, clock=clock, patience=patience)


async def test_many_who_ask_at_once_and_soon_after_are_served_by_one_question() -> None:
    tasks, clock = Tasks(), Clock()
    asked = queues(tasks, clock)
    catalogue = Catalogue.of([CLUSTER])
    asking = [asyncio.ensure_future(asked.ask(catalogue, "clusters/c")) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()  # one who leaves does not end it for the others
    tasks.answer.set_result({"jobs": [{"id": "77"}], "free_nodes": 2, "total_nodes": 5})
    answers = await asyncio.gather(*asking[1:])
    assert {(answer.jobs[0].id, answer.free_nodes, answer.total_nodes) for answer in answers} == {("77", 2, 5)}
    clock.now += 9
    await asked.ask(catalogue, "clusters/c")
    assert len(tasks.asked) == 1
    clock.now += 2
    await asked.ask(catalogue, "clusters/c")
    assert len(tasks.asked) == 2


async def test_the_credentials_are_those_of_the_clusters_endpoints() -> None:
    tasks = Tasks()
    tasks.answer.set_result({"jobs": []})
    endpoint = Endpoint("clusters/c/endpoints/e", GlobusBackend(credentials="alcf"))
    await queues(tasks, Clock()).ask(Catalogue.of([CLUSTER, endpoint]), "clusters/c")
    assert tasks.asked == [("alcf", LOGIN, "f")]


async def test_what_cannot_be_asked_is_an_error_each_time() -> None:
    tasks, clock = Tasks(), Clock()
    asked = queues(tasks, clock)
    with pytest.raises(ServiceError) as caught:
        await asked.ask(Catalogue.of([Cluster("clusters/c")]), "clusters/c")
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND
    tasks.answer.set_exception(GlobusError(Kind.OFFLINE, "It is offline."))
    for _ in range(2):
        with pytest.raises(ServiceError, match="It is offline") as caught:
            await asked.ask(Catalogue.of([CLUSTER]), "clusters/c")
        assert caught.value.reason is Reason.UPSTREAM_UNREACHABLE
    assert len(tasks.asked) == 2, "an error is not remembered"


async def test_a_cluster_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    tasks, catalogue = Tasks(), Catalogue.of([CLUSTER])
    asked = queues(tasks, Clock(), patience=0.001)
    for _ in range(3):
        with pytest.raises(ServiceError, match="did not come"):
            await asked.ask(catalogue, "clusters/c")
    assert len(tasks.asked) == 1, "tasks would heap up at a login node that is offline"
    assert not tasks.answer.cancelled(), "the SDK's future is shared"
    tasks.answer.set_result({"free_nodes": 3})
    await asyncio.gather(*asked._asking.values())
    late = asked.last("clusters/c")
    assert late is not None
    assert late.free_nodes == 3


def test_an_answer_is_read_whatever_it_leaves_out() -> None:
    queue = read_queue({"jobs": [{"id": 7, "slot": None, "models": "m", "nodes": "2", "batch": 0}, "x"]}, 5.0, "c")
    assert queue.jobs == (Job("7", models=("m",), nodes=2),)
    assert (queue.asked_at, queue.free_nodes) == (5.0, 0)


@pytest.mark.parametrize("answer", [{"error": "qstat is not there", "jobs": []}, None, "text"])
def test_an_answer_that_says_nothing_is_an_error(answer: Any) -> None:
    with pytest.raises(ServiceError) as caught:
        read_queue(answer, 5.0, "clusters/c")
    assert caught.value.reason is Reason.UPSTREAM_BROKEN


def test_numbers_and_texts_that_nobody_can_carry_are_bounded() -> None:
    job = {"id": "1", "position": 2**70, "slot": float("inf"), "nodes": -1, "comment": "x" * 10**6}
    (read,) = read_queue({"jobs": [job]}, 5.0, "c").jobs
    assert (read.position, read.slot, read.nodes, len(read.comment)) == (2**31 - 1, 0, 0, 1000)
    assert to_queue(Queue(5.0, (read,))).jobs[0].position == 2**31 - 1


def test_a_starts_job_is_found_by_endpoint_and_slot_and_is_no_batch() -> None:
    jobs = [
        {"id": "1", "endpoint": "e", "slot": 0, "batch": True, "state": "running"},
        {"id": "2", "endpoint": "e", "slot": 0, "state": "queued", "position": 2},
        {"id": "3", "endpoint": "e", "slot": 1, "state": "queued"},
        {"id": "4", "endpoint": "e", "slot": 1, "state": "running"},
    ]
    queue = read_queue({"jobs": jobs}, 5.0, "c")
    found = [queue.job_of("e", slot) for slot in range(3)]
    assert [job and job.id for job in found] == ["2", "4", None]
    assert found[0] is not None
    assert (found[0].queued().position, found[0].queued().running) == (2, False)


@pytest.mark.parametrize(
    "text", ["2026-11-21T14:05:00", "2026-11-21 14:05:00", "Sat Nov 21 14:05:00 2026", "Sat Nov 21 14:05 2026"]
)
def test_the_times_of_schedulers_are_read(text: str) -> None:
    assert to_time(text) == datetime(2026, 11, 21, 14, 5).timestamp()
    assert to_time(str(to_time(text))) == to_time(text)


@pytest.mark.parametrize("text", ["", "N/A", "Unknown", "nan", "-1", "inf", "1e300", "9999-12-31T23:59:59"])
def test_a_time_that_says_nothing_is_none(text: str) -> None:
    assert to_time(text) is None


# Which function is called

OLD, NEW = FunctionVersion("old", "1", 1.0), FunctionVersion("new", "2", 2.0)
SECURE, OTHERS = FunctionVersion("ha", "2", 1.5, LOGIN), FunctionVersion("ha-other", "2", 3.0, "another")


@pytest.mark.parametrize(
    ("versions", "allowed", "expected"),
    [
        ((NEW, OLD), None, "new"),
        ((NEW, OLD), {"old", "new"}, "new"),
        ((NEW, OLD), {"old"}, "old"),
        ((OTHERS, NEW, SECURE), None, "ha"),
        ((OTHERS, NEW), None, "new"),
    ],
)
async def test_the_newest_that_the_endpoint_allows_is_called(
    versions: tuple[FunctionVersion, ...], allowed: set[str] | None, expected: str
) -> None:
    tasks = Tasks()
    tasks.allowed = None if allowed is None else frozenset(allowed)
    catalogue = Catalogue.of([Function(QUEUE_STATUS, versions)])
    assert await Functions(tasks).find(catalogue, QUEUE_STATUS, GlobusFunction(LOGIN), "default") == expected
    assert await Functions(tasks).find(catalogue, QUEUE_STATUS, GlobusFunction(LOGIN, "set"), "default") == "set"


async def test_where_none_is_registered_or_allowed_that_is_told() -> None:
    tasks = Tasks()
    functions = Functions(tasks)
    with pytest.raises(GlobusError) as caught:
        await functions.find(Catalogue(), QUEUE_STATUS, GlobusFunction(LOGIN), "default")
    assert caught.value.kind is Kind.UNKNOWN_FUNCTION
    tasks.allowed = frozenset()
    catalogue = Catalogue.of([Function(QUEUE_STATUS, (NEW,))])
    with pytest.raises(GlobusError) as caught:
        await functions.find(catalogue, QUEUE_STATUS, GlobusFunction(LOGIN), "default")
    assert caught.value.kind is Kind.FUNCTION_NOT_ALLOWED
    tasks.allowed = frozenset({"new"})
    assert await functions.find(catalogue, QUEUE_STATUS, GlobusFunction(LOGIN), "default") == "new", "at once"
