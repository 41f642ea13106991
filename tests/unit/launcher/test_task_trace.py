"""A call that goes as a task, in its trace: what is told of the task, of its node, and of what went wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.deadlines import Bounds
from services.core.errors import ServiceError
from services.core.inference import Call, Head, Request
from services.core.tracing import Kind, Sampling, Span, TraceContext, Tracer, parent_in
from services.globus.errors import GlobusError
from services.globus.errors import Kind as Failure
from services.launcher.bridge_calls import TaskInference, TaskSlots
from services.launcher.task_trace import TaskTrace, node_run

E = "clusters/c/endpoints/e"
DISPATCH = TraceContext.of("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
UNSAMPLED = TraceContext.of(DISPATCH.trace_id, DISPATCH.span_id, sampled=False)
TIMES = {"began": 5.0, "sent": 5.5, "answered": 6.0, "ended": 6.5}
OK = {"status": 200, "headers": [], "body": "{}", "times": TIMES, "host": "node-7"}
SECOND = 1_000_000_000


class Receiver:
    def head(self, head: Head) -> None:
        pass

    def data(self, chunk: bytes) -> None:
        pass

    def end(self) -> None:
        pass

    def fail(self, error: ServiceError) -> None:
        pass


class World:
    """Calls by tasks at seconds that a test tells, and the spans that come of them."""

    def __init__(self, *, tasks: int = 2, bounds: Bounds | None = None) -> None:
        self.spans: list[Span] = []
        self.recorded = asyncio.Event()
        self.now = 1
        self.sent: list[Request] = []
        self.traces: list[TaskTrace] = []
        self.results: list[asyncio.Future[Any]] = []
        self.tracer = Tracer(self, Sampling(ratio=0.0))
        slots = TaskSlots(tasks=tasks, waiting=4)
        self.inference = TaskInference(E, self._run, slots=slots, bounds=bounds or Bounds(), traced=self._traced)

    def record(self, span: Span) -> None:
        self.spans.append(span)
        self.recorded.set()

    def _traced(self, request: Request) -> TaskTrace:
        return TaskTrace(self.tracer, request, {"weft.endpoint": E}, clock=lambda: self.now * SECOND)

    async def _run(self, request: Request, *, timeout: float, wait: float, trace: TaskTrace | None) -> Any:
        assert trace is not None
        self.traces.append(trace)
        self.sent.append(trace.request(request))
        self.results.append(asyncio.get_running_loop().create_future())
        return await asyncio.shield(self.results[-1])

    async def open(self, place: TraceContext | None = DISPATCH) -> Call:
        headers = (("traceparent", place.traceparent),) if place is not None else ()
        call = self.inference.open(Request("/v1/completions", headers, b"{}"), Receiver(), 1 << 20)
        await turns()
        return call

    async def answer(self, result: Any = None, error: Exception | None = None) -> None:
        pending = next(one for one in self.results if not one.done())
        pending.set_exception(error) if error is not None else pending.set_result(OK if result is None else result)
        await turns()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def events(span: Span) -> list[tuple[str, float]]:
    return [(event.name, event.time_ns / SECOND) for event in span.events]


async def test_a_task_and_its_run_at_the_node_are_spans_of_the_call() -> None:
    world = World()
    await world.open()
    world.now = 2
    world.traces[0].submitted("task-1")
    world.now = 9
    await world.answer()
    run, task = world.spans
    assert (task.name, task.service, task.kind, task.error) == ("globus task", "launcher", Kind.CLIENT, "")
    assert (task.context.trace_id, task.parent_id) == (DISPATCH.trace_id, DISPATCH.span_id)
    assert (task.start_ns, task.end_ns) == (1 * SECOND, 9 * SECOND)
    assert events(task) == [("submitted", 2), ("running", 5), ("result read", 9)]
    assert task.attributes == {
        "weft.endpoint": E,
        "weft.globus_task": "task-1",
        "http.response.status_code": 200,
        "weft.outcome": "ok",
    }
    assert (run.name, run.service, run.parent_id) == ("run task", "function", task.context.span_id)
    assert (run.start_ns, run.end_ns) == (5 * SECOND, 6.5 * SECOND)
    assert events(run) == [("request sent", 5.5), ("head", 6)]
    assert run.resource == {"host.name": "node-7"}
    assert parent_in(world.sent[0]) == run.context, "vLLM's own span hangs under the run at the node"


async def test_a_call_that_is_not_sampled_is_told_if_it_fails() -> None:
    world = World()
    for result in (None, {**OK, "status": 404}):
        await world.open(UNSAMPLED)
        await world.answer(result)
    assert not world.spans
    await world.open(UNSAMPLED)
    await world.answer({**OK, "status": 500})
    run, task = world.spans
    assert (run.error, task.error, task.attributes["http.response.status_code"]) == ("500", "500", 500)


@pytest.mark.parametrize(
    ("result", "error", "reason"),
    [
        (
            {"error": {"kind": "timeout", "message": "late"}, "times": {"began": 5.0, "sent": 6.0, "ended": 8.0}},
            None,
            "total_timeout",
        ),
        ({"error": {"kind": "vllm_unreachable", "message": "none"}}, None, "upstream_unreachable"),
        (None, GlobusError(Failure.OFFLINE, "It is offline.", ""), "upstream_unreachable"),
        (None, RuntimeError("a bug"), "internal"),
    ],
)
async def test_why_there_is_no_answer(result: Any, error: Exception | None, reason: str) -> None:
    world = World()
    await world.open()
    await world.answer(result, error)
    *runs, task = world.spans
    assert (task.error, task.attributes["weft.outcome"]) == (reason, reason)
    assert ["result read" in dict(events(task))] == [error is None]
    assert [(run.error, events(run)) for run in runs] == (
        [(reason, [("request sent", 6)])] if "times" in (result or {}) else []
    )


async def test_a_caller_that_leaves_is_told_at_once_and_what_comes_later_is_not() -> None:
    world = World()
    call = await world.open()
    world.traces[0].submitted("task-1")
    world.now = 3
    call.cancel()
    (task,) = world.spans
    assert (task.error, task.attributes["weft.outcome"], task.end_ns) == ("", "cancelled", 3 * SECOND)
    assert events(task) == [("submitted", 1), ("left", 3)]
    await world.answer()
    call.cancel()
    assert len(world.spans) == 1


async def test_a_call_that_never_had_a_task_tells_of_none() -> None:
    world = World(tasks=1)
    await world.open()
    waiting = await world.open()
    waiting.cancel()
    (task,) = world.spans
    assert (events(task), task.attributes["weft.outcome"]) == ([("left", 1)], "cancelled")
    assert "weft.globus_task" not in task.attributes


async def test_a_task_that_is_too_late_has_failed_by_then() -> None:
    world = World(bounds=Bounds(first_byte=0.05, total=60))
    await world.open()
    async with asyncio.timeout(20):
        await world.recorded.wait()
    (task,) = world.spans
    assert task.error == "first_byte_timeout"
    await world.answer()
    assert len(world.spans) == 1


async def test_what_went_wrong_on_the_way_is_an_event() -> None:
    world = World()
    await world.open()
    trace = world.traces[0]
    trace.happened("not submitted")
    trace.submitted("task-1")
    trace.happened("results' stream lost")
    await world.answer({**OK, "times": None})
    (task,) = world.spans
    assert [name for name, _ in events(task)] == ["not submitted", "submitted", "results' stream lost", "result read"]
    assert not task.error


async def test_a_trace_begins_here_only_where_nobody_has_decided() -> None:
    world = World()
    world.tracer = Tracer(world, Sampling(ratio=1.0))
    await world.open(None)
    await world.answer()
    assert [span.parent_id == "" for span in world.spans] == [False, True]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*TIMES, "times", "host"]), inner),
    max_leaves=12,
)


@given(JSON | st.fixed_dictionaries({"times": st.dictionaries(st.sampled_from([*TIMES]), JSON)}))
def test_a_node_may_say_anything(result: Any) -> None:
    found = node_run(result)
    if found is not None:
        assert 0 < round(found.times.began * 1e9) <= round(found.times.ended * 1e9) < 2**63


@pytest.mark.parametrize(
    "times",
    [
        {"began": 5.0},
        {"began": 6.0, "ended": 5.0},
        {"began": 5.0, "sent": 4.0, "ended": 6.0},
        {"began": 5.0, "ended": float("inf")},
        {"began": 5.0, "sent": float("nan"), "ended": 6.0},
        {"began": -5.0, "ended": 6.0},
        {"began": 5.0, "ended": 1e30},
    ],
)
def test_times_that_cannot_be_are_not_told(times: dict[str, float]) -> None:
    assert node_run({**OK, "times": times}) is None
    assert node_run(OK) is not None
