"""One trace from the call that waits for a cold model to the worker that is started for it, and to calls by tasks: with
real services and workers. Globus alone is a stand-in, which really runs the functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from weft.registry.v1 import resources_pb2

from tests.integration.test_launcher import ENDPOINT, QUICK, Site, node_environ
from tests.testing.fake_globus import FakeGlobus
from tests.testing.mesh import StartMesh
from tests.testing.otlp_sink import OtlpSink
from tests.testing.processes import SOON
from tests.testing.span_tree import SpanTree, having, new_trace, traced_chat

START = f"start {ENDPOINT}"
ENROL = "weft.auth.v1.AuthService/IssueEnrolmentToken"
AUTHENTICATE = "weft.auth.v1.AuthService/Authenticate"
COLD = 3 * SOON


class Traced:
    """A site whose mesh sends its spans to a sink."""

    def __init__(self, site: Site, sink: OtlpSink) -> None:
        self.site, self.sink = site, sink

    async def chat(self, trace: str, *, sampled: bool = True) -> int:
        """A chat of a client that traces; its status."""
        return await traced_chat(self.site.mesh, trace, seconds=COLD, sampled=sampled)

    async def tree(self, trace: str, *names: str) -> SpanTree:
        """The trace, once it has spans of these names."""
        return SpanTree(await self.sink.wait_for(having(trace, *names), COLD), trace)


@pytest.fixture
async def traced(start_mesh: StartMesh, tmp_path: Path) -> AsyncIterator[Traced]:
    async with OtlpSink() as sink, FakeGlobus(tmp_path, node_environ(tmp_path)) as globus:
        mesh = await start_mesh(
            workers=0,
            launcher={**QUICK, "worker_grace_s": 5.0, "attach_timeout_s": 10.0},
            tracing={"endpoint": f"http://{sink.grpc_address}", "ratio": 0.0},
        )
        site = Site(mesh, globus, [])
        try:
            yield Traced(site, sink)
        finally:
            for launcher in site.launchers:
                print(f"log of {launcher.name}:\n{launcher.log}")
                await asyncio.to_thread(launcher.clear_away)


async def test_a_cold_call_the_start_it_causes_and_the_workers_own_beginning_are_one_trace(traced: Traced) -> None:
    site = traced.site
    await site.create()
    await site.launch()
    trace = new_trace()
    assert await traced.chat(trace) == 200
    names = ("chat", "wait", "authenticate", START, "submit", "queue", "load", "start worker", "serve chat")
    tree = await traced.tree(trace, *names, ENROL, AUTHENTICATE)
    call, start, worker = tree.one("chat sim-model", "weft-router"), tree.one(START), tree.one("start worker")
    assert start.parent == call.span
    assert tree.below(start) == ["submit", ENROL, "queue", "start worker", "load"]
    assert (start.service, worker.service) == ("weft-launcher", "weft-worker")
    (told,) = await site.starts()
    assert start.attributes["weft.start"] == told.name.removeprefix("starts/")
    assert start.attributes["weft.outcome"] == worker.attributes["weft.outcome"] == "ready"
    assert start.attributes["weft.globus_task"] == "task-1"
    assert [event.name for event in worker.events] == ["attached", "vllm ready"]
    assert (worker.resource["weft.endpoint"], worker.resource["weft.instance"]) == (ENDPOINT, told.instance)
    submit, queue, load = tree.one("submit"), tree.one("queue"), tree.one("load")
    assert start.start == submit.start <= submit.end == queue.start <= queue.end == load.start <= load.end == start.end
    judged = tree.one(AUTHENTICATE)
    assert judged.parent == tree.one("authenticate").span
    assert (judged.service, judged.attributes["rpc.grpc.status_code"]) == ("weft-auth", 0)
    assert {span.status for span in tree.spans} == {"unset"}


async def test_a_launcher_that_is_killed_in_mid_start_tells_the_rest_when_it_is_back(traced: Traced) -> None:
    site = traced.site
    await site.create()
    site.globus.hold()
    launcher = await site.launch()
    trace = new_trace()
    call = asyncio.create_task(traced.chat(trace))
    await traced.tree(trace, "submit")
    await launcher.kill()
    await launcher.start()
    site.globus.release()
    assert await call == 200
    tree = await traced.tree(trace, START, ENROL, "queue", "load", "start worker", "chat sim-model")
    assert tree.below(tree.one(START)) == ["submit", ENROL, "queue", "start worker", "load"]
    assert tree.one(START).parent == tree.one("chat sim-model", "weft-router").span


async def test_a_start_that_fails_is_in_the_trace_of_a_call_that_was_not_sampled(traced: Traced) -> None:
    site = traced.site
    failed = {"outcome": "vllm_failed", "detail": "no GPU was found", "job": {"id": "77", "host": "node-7"}}
    site.globus.results["start_worker"] = lambda payload: failed
    await site.create()
    await site.launch(first_backoff_s=600)
    trace = new_trace()
    assert await traced.chat(trace, sampled=False) == 503
    tree = await traced.tree(trace, START, "submit", "queue")
    start = tree.one(START)
    assert (start.status, start.message) == ("error", "vllm_failed")
    assert (start.attributes["weft.job"], start.attributes["host.name"]) == ("77", "node-7")
    assert tree.one("queue").status == "error"
    assert tree.one("submit").status == "unset"


async def test_a_call_by_task_has_its_task_and_its_run_at_the_node_in_its_trace(traced: Traced) -> None:
    site = traced.site
    await site.create(call_mode=resources_pb2.CALL_MODE_TASK)
    await site.launch()
    trace = new_trace()
    assert await traced.chat(trace) == 200
    tree = await traced.tree(trace, START, "globus task", "run task", "dispatch")
    task, run = tree.one("globus task"), tree.one("run task")
    assert task.parent == tree.one("dispatch").span
    assert tree.below(task) == ["run task"]
    assert [event.name for event in task.events] == ["submitted", "running", "result read"]
    assert [event.name for event in run.events] == ["request sent", "head"]
    assert (task.service, run.service) == ("weft-launcher", "weft-function")
    assert task.start <= run.start <= run.end <= task.end
    assert run.resource["host.name"]
    ours = next(one for one in site.globus.started("inference") if one.id == task.attributes["weft.globus_task"])
    assert dict(ours.payload["headers"])["traceparent"] == f"00-{trace}-{run.span}-01"
    assert (task.attributes["weft.outcome"], task.attributes["http.response.status_code"]) == ("ok", 200)
    assert not any(span.name == "start worker" for span in tree.spans), "no worker runs there"
