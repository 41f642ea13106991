"""Calls as tasks at a real endpoint: every call reaches the node of its worker, which dials nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from services.globus.credentials import Default, open_client
from services.globus.errors import GlobusError, Kind
from services.globus.tasks import TaskLimits, Tasks
from tests.globus.chain import COLD, Chain, words_of
from tests.globus.conftest import StartChain
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted, Identity
from tests.globus.recipes import SIM_MODEL
from tests.testing.calls import WHOLE, Call

SLOW = "def slow(request):\n    import time\n\n    time.sleep(request['seconds'])\n    return request\n"


async def post(chain: Chain, **body: Any) -> tuple[int, dict[str, Any]]:
    """What the facade answers to a chat."""
    headers = {"Authorization": f"Bearer {chain.mesh.key}"}
    asked = {"model": SIM_MODEL, "messages": [{"role": "user", "content": "x"}], **body}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{chain.mesh.url}/v1/chat/completions", json=asked) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_cold_call_by_task_is_answered_whole_and_vllms_errors_stay_its_own(
    start_chain: StartChain, local_sim: EndpointAgent
) -> None:
    chain = await start_chain()
    endpoint = await chain.endpoint("tasks", local_sim, SIM_MODEL, call_mode="task")
    assert await Call(chain.mesh, stream=True, tokens=5).ending(COLD) == WHOLE
    (start,) = await chain.until_states("ready")
    (session,) = await chain.mesh.sessions()
    assert f"starts/{session.start}" == start.name
    assert session.agent.startswith("weft-tasks/")
    assert await words_of(await chain.chat(SIM_MODEL))
    status, answer = await post(chain, max_tokens=-1)
    assert status == 400
    assert "max_tokens" in answer["error"]["message"]
    # The tasks went where the worker's own went.
    configs = [task["user_endpoint_config"] for task in chain.hosted.tasks()]
    assert all(config == {"weft_endpoint": endpoint, "weft_slot": 0} for config in configs[-3:])


async def test_calls_at_once_share_the_slots_beside_the_worker(
    start_chain: StartChain, local_sim: EndpointAgent
) -> None:
    chain = await start_chain()
    await chain.endpoint("many", local_sim, SIM_MODEL, call_mode="task")
    calls = [Call(chain.mesh, stream=number % 2 == 0) for number in range(40)]
    assert [await call.ending(COLD) for call in calls] == [WHOLE] * 40


async def test_tasks_outlive_a_service_that_is_down_and_a_lost_stream(
    hosted: Hosted, owner: Identity, local_endpoint: EndpointAgent
) -> None:
    client = await asyncio.to_thread(open_client, Default())
    function = client.register_source_code(SLOW, "slow")
    tasks = Tasks(lambda name: client, limits=TaskLimits(look=0.5, quiet=2))
    try:
        submitted = asyncio.Event()
        slow = asyncio.create_task(
            tasks.run("x", local_endpoint.id, function, {"seconds": 6}, submitted=lambda task: submitted.set())
        )
        async with asyncio.timeout(COLD):  # Of which the SDK takes half a minute until it gives the service up.
            await submitted.wait()
            hosted.stop()
            try:
                refused = await asyncio.gather(
                    tasks.run("x", local_endpoint.id, function, {"seconds": 0}, {"other": 1}), return_exceptions=True
                )
            finally:
                hosted.start()
            assert isinstance(refused[0], GlobusError)
            assert refused[0].kind is Kind.SERVICE_UNAVAILABLE
            assert await slow == {"seconds": 6}
    finally:
        await tasks.close()
