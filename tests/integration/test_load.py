"""The load client against the simulated vLLM: what it counts as good, and what it does not."""

from __future__ import annotations

import pytest

from bench.load import Target, closed_loop, idle_streams, paced_streams
from services.sim.config import SimConfig
from services.sim.faults import Fault
from tests.testing.sim import running_sim

FAST = {"port": 0, "ttft_s": 0.0, "inter_token_s": 0.0}


async def test_a_closed_loop_counts_good_answers_and_errors():
    config = SimConfig(**FAST, api_key="key", faults=(Fault(status=500, times=2), Fault(die_after_tokens=1)))
    async with running_sim(config) as (address, _):
        result = await closed_loop(Target(address, "sim-model", "key"), connections=4, requests=50, warmup_s=0)
        assert (result.requests, result.errors) == (47, 3)
        assert "status 500" in result.first_error
        assert 0 < result.latency.p50 <= result.latency.p99 <= result.latency.highest
        wrong = await closed_loop(Target(address, "sim-model"), connections=1, requests=3, warmup_s=0)
        assert (wrong.requests, wrong.errors) == (0, 3)
        assert "status 401" in wrong.first_error


async def test_streams_are_complete_only_with_their_end():
    faults = (Fault(die_after_tokens=3), Fault(error_after_tokens=4), Fault(status=503))
    async with running_sim(SimConfig(**FAST, faults=faults)) as (address, _):
        result = await paced_streams(Target(address, "sim-model"), streams=10, tokens=20, ramp_s=0)
    # The stream with an error event has its [DONE] and lacks tokens.
    assert (result.streams, result.complete, result.intact) == (10, 8, 7)
    assert result.chunks == 7 * 22 + 4 + 7
    assert "broken off after 4 events" in result.first_error


async def test_streams_that_never_end_are_broken_off():
    """The other one ends long before, also where this process stands still for a while."""
    async with running_sim(SimConfig(**FAST, faults=(Fault(stall_after_tokens=2),))) as (address, _):
        result = await paced_streams(Target(address, "sim-model"), streams=2, tokens=5, ramp_s=0, timeout_s=4)
    assert (result.complete, result.chunks) == (1, 7 + 3)


async def test_idle_streams_are_held_until_the_block_ends():
    """The simulator's own end waits for open streams, so it would not come if they stayed."""
    config = SimConfig(port=0, ttft_s=3600)
    async with running_sim(config) as (address, _), idle_streams(Target(address, "sim-model"), 200) as idle:
        await idle.arrived()
        assert (idle.answered, idle.broken) == (200, 0)


@pytest.mark.parametrize("url", ["http://192.0.2.1:80", "https://127.0.0.1", "http://example.org", "127.0.0.1:8000"])
def test_only_loopback_is_loaded(url):
    with pytest.raises(ValueError, match="loopback"):
        Target(url, "m")


async def test_runs_are_bounded():
    with pytest.raises(ValueError, match="connections: must be above 0 and at most 10000, got 20000"):
        await closed_loop(Target("http://localhost:1", "m"), connections=20_000)
    with pytest.raises(OSError, match="Connect call failed"):
        await closed_loop(Target("http://127.0.0.1:1", "m"), connections=1)
