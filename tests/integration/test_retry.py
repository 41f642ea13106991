"""Before its first byte a call moves to another worker, or waits for one; time and room are bounded."""

from typing import Any

import pytest

from tests.integration.conftest import Measured
from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import Mesh, StartMesh
from tests.testing.simulator import Simulator
from tests.testing.twins import Twins

LONG = 30_000
"""Tokens of an answer that outlives its test."""

QUIET = 4.0
"""Seconds; longer than a process of a busy machine may stand still, which is no fault of vLLM's."""
WHOLE_TIME = 10.0
SHORT_BOUNDS = {
    "first_byte_timeout_s": QUIET,
    "stall_timeout_s": QUIET,
    "total_timeout_s": WHOLE_TIME,
    "wait_for_worker_s": 3.5,
}


# Faults of a vLLM


# Twice where the worker itself asks once more, as a connection that was kept may have died unnoticed.
@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 503}, {"reset_before_head": True, "times": 2}, {"die_after_tokens": 0, "times": 2}],
    ids=lambda fault: next(iter(fault)),
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
async def test_a_fault_before_the_first_byte_is_not_seen(twins: Twins, fault: dict[str, Any], stream: bool) -> None:
    busy = await twins.spread(stream=True, tokens=LONG)
    await busy[0].leave()
    await twins.mesh.until(twins.computing, lambda now: now == [0, 1], "the second worker alone is busy")
    await twins.sims[0].fail(**fault)
    before = await twins.sims[0].generated()
    call = Call(twins.mesh, stream=stream, tokens=20)
    assert await call.ending() == WHOLE
    assert await twins.sims[0].generated() == before
    assert await twins.mesh.router.metric("weft_router_open_calls") == 1
    await busy[1].leave()


async def test_what_both_say_stands(twins: Twins) -> None:
    for sim in twins.sims:
        await sim.fail(status=503, times=2)
    call = Call(twins.mesh, stream=False)
    assert (await call.ending(), call.status) == ("503", 503)
    assert "The simulator was told to fail." in call.body.decode()


async def test_a_fault_after_the_first_byte_is_seen(twins: Twins) -> None:
    for sim in twins.sims:
        await sim.fail(die_after_tokens=5)
    call = Call(twins.mesh, stream=True, tokens=20)
    assert await call.ending() == "upstream_broken"
    assert len(call.events) == 1 + 5 + 1  # one opens the stream, one tells the error


async def test_an_error_in_mid_stream_arrives_as_vllm_said_it(twins: Twins) -> None:
    for sim in twins.sims:
        await sim.fail(error_after_tokens=5)
    call = Call(twins.mesh, stream=True, tokens=20)
    await call.begun(8)
    assert "EngineCore encountered an issue" in call.events[-2]
    assert call.events[-1] == "data: [DONE]"


# Time


@pytest.fixture
async def hasty(start_mesh: StartMesh) -> Mesh:
    """One worker that takes one call at a time, and short bounds on everything."""
    bounds = {"first-byte": QUIET, "stall": QUIET, "total": WHOLE_TIME}
    worker = ("--max-calls", "1", *(word for name, s in bounds.items() for word in (f"--{name}-timeout", str(s))))
    facade = {"wait_for_router_s": 1}
    return await start_mesh(workers=0, router=SHORT_BOUNDS, facade=facade, worker=worker)


async def test_time_and_room_are_bounded(
    hasty: Mesh, tmp_path_factory: pytest.TempPathFactory, measured: Measured
) -> None:
    sim = Simulator("sim", tmp_path_factory.mktemp("sim"))
    sim.launch()
    try:
        await hasty.until(sim.answers, bool, "the simulator answers")
        await hasty.add_worker(vllm_url=sim.url)
        await calls_that_stall(hasty, sim, measured)
        await calls_that_wait_for_a_slot(hasty, sim)
        await hasty.router.kill()
        call = Call(hasty, stream=False)
        assert (await call.ending(), call.status) == ("router_unavailable", 503)
        assert int(call.headers["Retry-After"]) >= 1
    finally:
        sim.clear_away()


async def calls_that_stall(mesh: Mesh, sim: Simulator, measured: Measured) -> None:
    for tokens, stream, length, code, status in (
        (0, True, 20, "first_byte_timeout", 504),
        (0, False, 20, "first_byte_timeout", 504),
        (3, True, 20, "stall_timeout", 200),
        (LONG, True, LONG, "total_timeout", 200),
    ):
        await sim.fail(stall_after_tokens=tokens)
        call = Call(mesh, stream=stream, tokens=length)
        assert (await call.ending(), call.status) == (code, status)
        measured(f"{code} of {WHOLE_TIME if code == 'total_timeout' else QUIET:g} s, streamed: {stream}", call.seconds)
        await mesh.until(sim.running_calls, lambda running: running == 0, "vLLM computes no more")


async def calls_that_wait_for_a_slot(mesh: Mesh, sim: Simulator) -> None:
    first = Call(mesh, stream=True, tokens=LONG)
    await first.begun()
    second, third, gone = (Call(mesh, stream=False, tokens=2) for _ in range(3))
    await mesh.until(lambda: mesh.router.metric("weft_router_open_calls"), lambda now: now == 4, "three wait")
    assert await sim.running_calls() == 1
    await gone.leave()
    await first.leave()
    assert [await call.ending() for call in (second, third)] == [WHOLE, WHOLE]

    first = Call(mesh, stream=True, tokens=LONG)
    await first.begun()
    late = Call(mesh, stream=False)
    assert (await late.ending(), late.status) == ("overloaded", 503)
    assert int(late.headers["Retry-After"]) >= 1
    assert not first.over
    await first.leave()
    await mesh.until(lambda: mesh.router.metric("weft_router_open_calls"), lambda now: now == 0, "no call is left")
