"""An endpoint that may not run what starts workers: the refusal reaches the caller in words."""

from __future__ import annotations

import pytest
from weft.launcher.v1 import launcher_pb2 as pb

from tests.globus.chain import COLD
from tests.globus.conftest import MakeAgent, StartChain
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted
from tests.globus.recipes import SIM_MODEL
from tests.testing.calls import Call


@pytest.fixture(scope="session")
def probing(make_agent: MakeAgent) -> EndpointAgent:
    """An endpoint that runs the probe alone."""
    return make_agent("probing", "local", real=False, functions=["probe"], check=False)


@pytest.mark.parametrize("by_service", [True, False], ids=["service", "agent"])
async def test_a_refusal_is_told(
    start_chain: StartChain, hosted: Hosted, probing: EndpointAgent, by_service: bool
) -> None:
    hosted.set(enforce_allow_lists=by_service)
    # The next attempt is farther away than the call's patience goes, so it is told at once.
    chain = await start_chain(launcher={"first_backoff_s": 300.0}, router={"cold_start_patience_s": 60.0})
    endpoint = await chain.endpoint(f"probing-{by_service}".lower(), probing, SIM_MODEL)
    call = Call(chain.mesh, stream=False)
    starts = await chain.mesh.until(
        chain.starts, lambda starts: starts and starts[0].state == pb.START_STATE_FAILED, "a start has failed", COLD
    )
    assert "allow" in starts[0].detail or "permit" in starts[0].detail
    assert "start-worker" in starts[0].detail or "not permitted" in starts[0].detail
    assert bool(chain.submitted(endpoint)) is not by_service
    assert await call.ending(COLD) == "no_worker"
    assert call.status == 503
    assert starts[0].detail[:40] in call.body.decode()
