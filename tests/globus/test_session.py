"""Workers that Globus Compute starts, and calls that go to them by their sessions."""

from __future__ import annotations

from tests.globus.chain import words_of
from tests.globus.conftest import StartChain
from tests.globus.endpoint import EndpointAgent
from tests.globus.recipes import SIM_MODEL


async def test_a_call_starts_a_worker_on_the_endpoints_machine(
    start_chain: StartChain, local_sim: EndpointAgent
) -> None:
    chain = await start_chain()
    await chain.endpoint("local", local_sim, SIM_MODEL)
    assert await words_of(await chain.chat(SIM_MODEL))
    (start,) = await chain.until_states("ready")
    assert start.endpoint == "clusters/hpc/endpoints/local"
    (task,) = chain.hosted.tasks("start_worker")
    assert task["user_endpoint_config"] == {"weft_endpoint": start.endpoint, "weft_slot": 0}
