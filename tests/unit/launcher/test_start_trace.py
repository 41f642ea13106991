"""The start of a worker in the trace of the call that caused it, also where launchers change in its course."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.core.tracing import Kind, Span, TraceContext, parse
from services.launcher.machine import Seen
from tests.testing.launch_world import CONFIG, ENDPOINT, READY, Launcher, Site

CALL = TraceContext.of("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
UNSAMPLED = TraceContext.of(CALL.trace_id, CALL.span_id, sampled=False)
STARTING = Seen("i", job="job-1", host="node-7")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.endpoint()
    site.spans.on(ratio=0.0)
    return site


@asynccontextmanager
async def launching(site: Site, name: str = "a") -> AsyncIterator[Launcher]:
    launcher = await Launcher(site, name).open()
    try:
        yield launcher
    finally:
        await launcher.close()


def short(spans: list[Span]) -> list[tuple[str, float, str]]:
    """Name, duration in seconds, error."""
    return [(span.name, (span.end_ns - span.start_ns) / 1e9, span.error) for span in spans]


async def begin(launcher: Launcher, cause: TraceContext | None = CALL) -> str:
    """Has a start decided; its id."""
    await launcher.want(1, traceparent=cause.traceparent if cause is not None else "")
    await launcher.round()
    return (await launcher.starts())[-1].id


async def test_each_stage_is_told_as_it_ends_and_the_start_with_the_last(site: Site) -> None:
    async with launching(site) as launcher:
        start = await begin(launcher)
        (run,) = site.globus.runs
        given = parse(run.payload["traceparent"])
        assert given is not None
        assert (given.trace_id, given.sampled) == (CALL.trace_id, True)
        assert not site.spans.take()
        site.globus.accept(run, "task-1")
        await launcher.round(2)
        assert short(submit := site.spans.take()) == [("submit", 2.0, "")]
        site.sessions.see({start: STARTING})
        await launcher.round(60)
        assert short(queue := site.spans.take()) == [("queue", 60.0, "")]
        site.sessions.see({start: Seen("i", ready=True, job="job-1", host="node-7")})
        await launcher.round(30)
        load, whole = last = site.spans.take()
        assert short(last) == [("load", 30.0, ""), (f"start {ENDPOINT}", 92.0, "")]
        assert (whole.context, whole.parent_id) == (given, CALL.span_id), "the worker's span names it as its parent"
        assert {span.parent_id for span in (*submit, *queue, load)} == {given.span_id}
        assert [span.kind for span in (*submit, *queue, load)] == [Kind.PRODUCER, Kind.INTERNAL, Kind.INTERNAL]
        assert whole.attributes == {
            "weft.start": start,
            "weft.slot": 0,
            "weft.endpoint": ENDPOINT,
            "weft.globus_task": "task-1",
            "weft.job": "job-1",
            "host.name": "node-7",
            "weft.instance": "i",
            "weft.outcome": "ready",
        }
        site.sessions.see({})
        await launcher.round(10)
        await launcher.round(CONFIG.lost_after_s)
        assert not site.spans.take(), "its end is no part of its start"


async def test_a_launcher_that_takes_over_makes_the_spans_that_are_left(site: Site) -> None:
    first = await Launcher(site, "a").open()
    start = await begin(first)
    (run,) = site.globus.runs
    given = parse(run.payload["traceparent"])
    site.globus.accept(run, "task-1")
    await first.round(2)
    assert short(site.spans.take()) == [("submit", 2.0, "")]
    await first.crash()
    async with launching(site, "b") as second:
        await second.round()
        site.sessions.see({start: READY})
        await second.round(CONFIG.lease_life_s)
        queue, load, whole = spans = site.spans.take()
        waited = CONFIG.lease_life_s
        assert short(spans) == [("queue", waited, ""), ("load", 0.0, ""), (f"start {ENDPOINT}", waited + 2, "")]
        assert (whole.context, whole.parent_id) == (given, CALL.span_id)
        assert given is not None
        assert queue.parent_id == load.parent_id == given.span_id


async def test_a_start_that_fails_is_told_whole_although_its_call_was_not_sampled(site: Site) -> None:
    async with launching(site) as launcher:
        await begin(launcher, UNSAMPLED)
        (run,) = site.globus.runs
        site.globus.accept(run, "task-1")
        await launcher.round(2)
        assert not site.spans.take()
        run.answer.set_result({"outcome": "vllm_failed", "detail": "no GPU", "job": {"id": "job-1", "host": "node-7"}})
        await launcher.round(40)
        await launcher.round()
        submit, queue, whole = spans = site.spans.take()
        assert short(spans) == [
            ("submit", 2.0, ""),
            ("queue", 40.0, "vllm_failed"),
            (f"start {ENDPOINT}", 42.0, "vllm_failed"),
        ]
        assert whole.attributes["weft.outcome"] == "vllm_failed"
        assert whole.attributes["weft.job"] == "job-1"
        assert submit.context.trace_id == queue.context.trace_id == CALL.trace_id


async def test_a_start_that_is_given_up_is_no_error(site: Site) -> None:
    async with launching(site) as launcher:
        start = await begin(launcher)
        site.globus.accept(site.globus.runs[0], "task-1")
        await launcher.round(2)
        await launcher.want(0)
        await launcher.store.ask_stop(start, "an administrator asked for its end")
        await launcher.round(5)
        _, queue, whole = spans = site.spans.take()
        assert short(spans) == [("submit", 2.0, ""), ("queue", 5.0, ""), (f"start {ENDPOINT}", 7.0, "")]
        assert whole.attributes["weft.outcome"] == "given_up"
        assert not queue.error


@pytest.mark.parametrize("cause", [None, UNSAMPLED])
async def test_a_start_that_nobody_has_sampled_is_not_told(site: Site, cause: TraceContext | None) -> None:
    async with launching(site) as launcher:
        start = await begin(launcher, cause)
        site.globus.accept(site.globus.runs[0], "task-1")
        site.sessions.see({start: READY})
        await launcher.round(2)
        assert not site.spans.take()


async def test_a_start_that_no_call_has_caused_is_a_trace_of_its_own(site: Site) -> None:
    site.endpoint(min_workers=1)
    site.spans.on(ratio=1.0)
    async with launching(site) as launcher:
        await launcher.round()
        (start,) = await launcher.starts()
        site.globus.accept(site.globus.runs[0], "task-1")
        site.sessions.see({start.id: READY})
        await launcher.round(2)
        *_, whole = site.spans.take()
        assert (whole.name, whole.parent_id) == (f"start {ENDPOINT}", "")


async def test_a_launcher_that_traces_nothing_hands_the_calls_trace_on(site: Site) -> None:
    site.spans.tracer = None
    async with launching(site) as launcher:
        await begin(launcher)
        assert site.globus.runs[0].payload["traceparent"] == CALL.traceparent
