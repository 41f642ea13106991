"""The client leaves: vLLM stops computing, wherever the call was."""

import asyncio
import time

import pytest

from tests.integration.conftest import Measured
from tests.testing.calls import WHOLE, Call
from tests.testing.twins import Twins

LONG = 30_000
"""Tokens of an answer that outlives its test."""


async def generated(twins: Twins) -> int:
    return sum([await sim.generated() for sim in twins.sims])


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
async def test_a_client_that_leaves_stops_vllm(twins: Twins, measured: Measured, stream: bool) -> None:
    calls = [Call(twins.mesh, stream=stream, tokens=LONG) for _ in range(20)]
    await twins.mesh.until(twins.computing, lambda now: sum(now) == 20, "20 calls are computed")
    if stream:
        await asyncio.gather(*(call.begun() for call in calls))
    left = time.monotonic()
    await asyncio.gather(*(call.leave() for call in calls))
    await twins.until_idle()
    measured(f"20 clients gone, {'streamed' if stream else 'unstreamed'}: nothing is computed", time.monotonic() - left)
    tokens = await generated(twins)
    assert await twins.ask(tokens=7) == WHOLE
    assert await generated(twins) == tokens + 7


async def test_a_client_that_leaves_before_the_first_byte(twins: Twins, measured: Measured) -> None:
    for sim in twins.sims:
        await sim.fail(stall_after_tokens=0)
    calls = await twins.spread(stream=True, tokens=LONG)
    left = time.monotonic()
    for call in calls:
        assert not call.body
        await call.leave()
    await twins.until_idle()
    measured("2 clients gone before the first byte: nothing is computed", time.monotonic() - left)


async def test_a_client_that_leaves_while_it_waits_for_a_worker(twins: Twins) -> None:
    for sim in twins.sims:
        await sim.kill()
    calls = [Call(twins.mesh, stream=stream, tokens=LONG) for stream in (True, False)]
    await twins.mesh.until(lambda: open_calls(twins), lambda now: now == 2, "both wait")
    for call in calls:
        await call.leave()
    await twins.mesh.until(lambda: open_calls(twins), lambda now: now == 0, "none waits")
    await twins.restore()  # which fails if anything is computed now that vLLM is back


async def test_leaving_disturbs_no_other(twins: Twins) -> None:
    stays = Call(twins.mesh, stream=True, tokens=150)
    await stays.begun()
    for _ in range(10):
        leaves = Call(twins.mesh, stream=True, tokens=LONG)
        await leaves.begun(1)
        await leaves.leave()
    assert await stays.ending() == WHOLE
    await twins.until_idle()


async def open_calls(twins: Twins) -> float:
    return await twins.mesh.router.metric("weft_router_open_calls")
