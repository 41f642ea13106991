"""One trace from a call to the worker that Globus Compute starts for it in a job of a real Slurm, and to the task that
a call travels as.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.globus.chain import COLD
from tests.globus.conftest import StartChain
from tests.globus.endpoint import EndpointAgent
from tests.globus.recipes import SIM_MODEL
from tests.globus.slurm import Slurm
from tests.testing.otlp_sink import OtlpSink
from tests.testing.span_tree import SpanTree, having, new_trace, traced_chat

ENROL = "weft.auth.v1.AuthService/IssueEnrolmentToken"
STEPS = ("load", "queue", "submit", ENROL)
"""What every start goes through, as several services tell it, each in its own time."""


@pytest.fixture
async def sink() -> AsyncIterator[OtlpSink]:
    async with OtlpSink() as sink:
        yield sink


def tracing(sink: OtlpSink) -> dict[str, object]:
    """Nothing is sampled but what a client has."""
    return {"endpoint": f"http://{sink.grpc_address}", "ratio": 0.0}


async def test_a_call_the_job_that_it_starts_and_the_worker_there_are_one_trace(
    start_chain: StartChain, slurm_sim: EndpointAgent, slurm: Slurm, sink: OtlpSink
) -> None:
    chain = await start_chain(tracing=tracing(sink))
    endpoint = await chain.endpoint("traced", slurm_sim, SIM_MODEL)
    trace = new_trace()
    assert await traced_chat(chain.mesh, trace, seconds=COLD) == 200
    names = ("chat ", "wait", f"start {endpoint}", *STEPS, "start worker", "dispatch", "serve chat")
    tree = SpanTree(await sink.wait_for(having(trace, *names), COLD), trace)
    call, start, worker = tree.one("chat", "weft-router"), tree.one(f"start {endpoint}"), tree.one("start worker")
    assert start.parent == call.span
    assert sorted(tree.below(start)) == sorted(["start worker", *STEPS])
    (job,) = slurm.jobs()
    assert start.attributes["weft.job"] == worker.attributes["weft.job"] == str(job["job_id"])
    (task,) = chain.submitted(endpoint)
    assert start.attributes["weft.globus_task"] == task["id"]
    assert start.attributes["weft.outcome"] == worker.attributes["weft.outcome"] == "ready"
    assert tree.one("serve chat").parent == tree.one("dispatch").span
    assert {span.status for span in tree.spans} == {"unset"}


async def test_a_call_that_goes_as_a_task_has_the_task_and_its_run_in_its_trace(
    start_chain: StartChain, local_sim: EndpointAgent, sink: OtlpSink
) -> None:
    chain = await start_chain(tracing=tracing(sink))
    endpoint = await chain.endpoint("traced-tasks", local_sim, SIM_MODEL, call_mode="task")
    trace = new_trace()
    assert await traced_chat(chain.mesh, trace, seconds=COLD) == 200
    names = (f"start {endpoint}", *STEPS, "dispatch", "globus task", "run task")
    tree = SpanTree(await sink.wait_for(having(trace, *names), COLD), trace)
    task, run = tree.one("globus task"), tree.one("run task")
    assert task.parent == tree.one("dispatch").span
    assert run.parent == task.span
    assert [event.name for event in task.events] == ["submitted", "running", "result read"]
    assert task.attributes["weft.globus_task"] in {told["id"] for told in chain.hosted.tasks("inference")}
    assert task.start <= run.start <= run.end <= task.end
    assert sorted(tree.below(tree.one(f"start {endpoint}"))) == sorted(STEPS)
