"""Workers that Globus Compute starts, in jobs of a real Slurm and on the agent's machine, and calls to them."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from weft.launcher.v1 import launcher_pb2 as pb

from tests.globus.chain import COLD, OVER, Chain, words_of
from tests.globus.conftest import MakeAgent, StartChain
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted
from tests.globus.recipes import SIM_MODEL
from tests.globus.slurm import Slurm
from tests.testing.calls import WHOLE, Call
from tests.testing.parts import requires_part
from tests.vllm.rows.row import CHAT_MODEL

CALLERS = 1000
LONG = 20_000
"""Tokens of an answer during which something is done."""


async def get(chain: Chain, path: str) -> Any:
    """What the facade answers."""
    headers = {"Authorization": f"Bearer {chain.mesh.key}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{chain.mesh.url}{path}") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_a_call_starts_a_worker_on_the_endpoints_machine(
    start_chain: StartChain, local_sim: EndpointAgent
) -> None:
    chain = await start_chain()
    endpoint = await chain.endpoint("local", local_sim, SIM_MODEL)
    call = Call(chain.mesh, stream=True)
    assert await call.ending(COLD) == WHOLE
    (start,) = await chain.until_states("ready")
    (task,) = chain.submitted(endpoint)
    assert (start.endpoint, task["user_endpoint_config"]["weft_slot"]) == (endpoint, 0)


@requires_part("vllm")
async def test_a_real_vllm_in_a_slurm_job_answers_a_streamed_chat(
    start_chain: StartChain, slurm_vllm: EndpointAgent, slurm_queue: EndpointAgent, slurm: Slurm, account: str
) -> None:
    """Held in the queue first, so that the cluster's queue and the start's state are seen on the way."""
    chain = await start_chain(cluster={"queue_status": slurm_queue.id})
    endpoint = await chain.endpoint("chat", slurm_vllm, CHAT_MODEL)
    slurm.hold()
    call = Call(chain.mesh, stream=True, model=CHAT_MODEL, tokens=12, counted=False)
    (start,) = await chain.until_states("queued")
    await chain.mesh.until(chain.starts, lambda starts: starts[0].queue_position == 1, "its place is known", COLD)
    (job,) = (await get(chain, "/resource_server/hpc/jobs"))["queued"]
    assert (job["Models"], job["Framework"]) == (CHAT_MODEL, "vllm")
    assert "queued" in await chain.weft("status")
    slurm.release()
    assert await call.ending(COLD) == WHOLE
    (start,) = await chain.until_states("ready")
    assert await words_of(await chain.chat(CHAT_MODEL, tokens=12, extra_body={"min_tokens": 12}))
    (told,) = slurm.jobs("weft-chat-0")
    assert told["user_name"] == account
    assert told["comment"] == f"weft:endpoint={endpoint};slot=0;models={CHAT_MODEL}"
    assert start.job == str(told["job_id"])
    (running,) = (await get(chain, "/resource_server/hpc/jobs"))["running"]
    assert running["Job ID"] == start.job


async def test_a_thousand_callers_of_a_cold_model_start_one_job_and_are_all_answered(
    start_chain: StartChain, slurm_sim: EndpointAgent, slurm: Slurm
) -> None:
    chain = await start_chain()
    endpoint = await chain.endpoint("thousand", slurm_sim, SIM_MODEL)
    slurm.hold()
    calls = [Call(chain.mesh, stream=number % 2 == 0) for number in range(CALLERS)]
    waiting = "weft_router_waiting_calls"
    await chain.mesh.until(
        lambda: chain.mesh.router.metric(waiting), lambda now: now == CALLERS, "all calls wait", COLD
    )
    await chain.until_states("queued")
    slurm.release()
    endings = [await call.ending(COLD) for call in calls]
    assert endings == [WHOLE] * CALLERS
    assert len(await chain.until_states("ready")) == len(slurm.jobs()) == 1
    assert len(chain.submitted(endpoint)) == 1


async def test_a_job_that_is_cancelled_in_mid_stream_ends_its_streams_visibly_and_the_next_call_starts_another(
    start_chain: StartChain, slurm_sim: EndpointAgent, slurm: Slurm
) -> None:
    chain = await start_chain()
    endpoint = await chain.endpoint("cancelled", slurm_sim, SIM_MODEL)
    call = Call(chain.mesh, stream=True, tokens=LONG)
    await call.begun(5, COLD)
    (job,) = slurm.jobs()
    slurm.cancel(job["job_id"])
    # Slurm signals all of the job: whichever of worker and vLLM ends first tells, and the stream never looks whole.
    assert await call.ending(COLD) in ("worker_lost", "upstream_broken", "shutting_down")
    again = Call(chain.mesh, stream=True)
    assert await again.ending(COLD) == WHOLE
    assert [each["job_id"] for each in slurm.jobs() if each["job_id"] != job["job_id"]] == [job["job_id"] + 1]
    assert len(chain.submitted(endpoint)) == 2


async def test_a_job_comes_to_its_end_and_its_successor_was_there_before(
    start_chain: StartChain, make_agent: MakeAgent, slurm: Slurm
) -> None:
    """A job of two minutes; its worker drains for the last 20 seconds, the next is started 80 before that."""
    agent = make_agent("slurm-brief", "slurm", real=False, environ=slurm.environ, walltime="00:02:00")
    chain = await start_chain(launcher={"replace_before_s": 100.0, "drain_before_s": 20.0})
    await chain.endpoint("brief", agent, SIM_MODEL, min_workers=1, max_workers=1)
    (first,) = await chain.until_states("ready")
    assert first.job_end_time.seconds > 0
    both = await chain.mesh.until(
        chain.starts, lambda starts: len(starts) == 2 and starts[1].state == pb.START_STATE_READY, "a successor", 150
    )
    assert both[0].state in (pb.START_STATE_READY, pb.START_STATE_DRAINING)
    assert {start.slot for start in both} == {0, 1}
    call = Call(chain.mesh, stream=True)
    gone = await chain.mesh.until(
        chain.starts, lambda starts: starts[0].state == pb.START_STATE_GONE, "the first job is over", 150
    )
    assert await call.ending() == WHOLE
    assert gone[0].end_time.seconds <= first.job_end_time.seconds


async def test_an_agent_that_is_killed_takes_its_jobs_along_and_starts_workers_again_when_it_is_back(
    start_chain: StartChain, make_agent: MakeAgent, slurm: Slurm
) -> None:
    """That is Globus's own rule: a user endpoint ends when its agent is gone, and cancels its jobs."""
    agent = make_agent("slurm-killed", "slurm", real=False, environ=slurm.environ)
    chain = await start_chain()
    endpoint = await chain.endpoint("killed", agent, SIM_MODEL)
    assert await Call(chain.mesh, stream=True).ending(COLD) == WHOLE
    (job,) = slurm.jobs()
    # A session needs no agent while the job lives; which is a second, but for the calls that the worker has.
    through = Call(chain.mesh, stream=True, tokens=LONG)
    await through.begun()
    await agent.kill()
    await through.begun(len(through.events) + 20)
    await through.leave()
    await chain.mesh.until(
        lambda: asyncio.to_thread(slurm.jobs), lambda jobs: not jobs, f"job {job['job_id']} is cancelled", COLD
    )
    waiting = Call(chain.mesh, stream=True)
    await chain.mesh.until(
        chain.starts, lambda starts: starts[0].state in OVER, "the launcher knows that the worker is gone", COLD
    )
    agent.start()
    assert await waiting.ending(COLD) == WHOLE
    assert [each["job_id"] for each in slurm.jobs()] > [job["job_id"]]
    assert len(chain.submitted(endpoint)) == 2


async def test_sessions_serve_on_while_the_service_is_down_and_starts_go_on_after(
    start_chain: StartChain, slurm_sim: EndpointAgent, hosted: Hosted
) -> None:
    chain = await start_chain()
    await chain.endpoint("down", slurm_sim, SIM_MODEL)
    other = await chain.endpoint("cold", slurm_sim, "another=sim-model")
    assert await Call(chain.mesh, stream=True).ending(COLD) == WHOLE
    hosted.stop()
    try:
        for _ in range(5):
            assert await Call(chain.mesh, stream=True).ending() == WHOLE
        cold = Call(chain.mesh, stream=True, model="another")
        await chain.mesh.until(
            chain.starts,
            lambda starts: len(starts) == 2 and starts[1].detail != "",
            "the second start is refused",
            COLD,  # The SDK itself tries for up to half a minute.
        )
        assert await Call(chain.mesh, stream=True).ending() == WHOLE
    finally:
        hosted.start()
    assert await cold.ending(COLD) == WHOLE
    assert len(chain.submitted(other)) == 1
    assert await Call(chain.mesh, stream=True).ending() == WHOLE


async def test_a_task_that_is_delivered_twice_yields_one_worker(
    start_chain: StartChain, slurm_sim: EndpointAgent, hosted: Hosted
) -> None:
    chain = await start_chain()
    await chain.endpoint("twice", slurm_sim, SIM_MODEL)
    hosted.set(deliver_twice=1)
    assert await Call(chain.mesh, stream=True).ending(COLD) == WHOLE
    (start,) = await chain.until_states("ready")
    (session,) = await chain.mesh.sessions()
    # And once more, while the worker serves.
    (task,) = chain.submitted(start.endpoint)
    hosted.redeliver(task["id"])
    await chain.mesh.until(
        lambda: asyncio.to_thread(chain.submitted, start.endpoint),
        lambda tasks: tasks[0]["results"] == 2,
        "two copies of the task have ended",
        COLD,
    )
    assert [each.instance for each in await chain.mesh.sessions()] == [session.instance]
    assert await Call(chain.mesh, stream=True).ending() == WHOLE


async def test_a_launcher_that_is_killed_while_a_job_waits_starts_no_second(
    start_chain: StartChain, slurm_sim: EndpointAgent, slurm: Slurm
) -> None:
    chain = await start_chain()
    endpoint = await chain.endpoint("relaunched", slurm_sim, SIM_MODEL)
    slurm.hold()
    call = Call(chain.mesh, stream=True)
    await chain.until_states("queued")
    await chain.mesh.launcher.kill()
    await chain.mesh.launcher.start()
    await chain.until_states("queued")
    slurm.release()
    assert await call.ending(COLD) == WHOLE
    await chain.until_states("ready")
    assert len(slurm.jobs()) == len(chain.submitted(endpoint)) == 1
