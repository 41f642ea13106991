"""Parts die or fall silent while calls run: every call ends, whole or visibly not, and service returns by itself."""

import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.integration.conftest import Measured
from tests.testing.calls import CUT, WHOLE, Call
from tests.testing.mesh import StartMesh
from tests.testing.process_tree import descendants, is_alive
from tests.testing.processes import Part
from tests.testing.twins import Twins

LONG = 30_000
"""Tokens of an answer that outlives its test."""
MODERATE = 500
"""Of one that takes 5 s: a test may stand still for some of them, and it is still under way."""


async def endings(calls: list[Call]) -> list[str]:
    return [await call.ending() for call in calls]


def slowest(calls: list[Call], since: float) -> float:
    return max(call.ended_at for call in calls) - since


def gone(pid: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return not is_alive(pid)

    return look


# With two workers, one of which goes


@pytest.mark.parametrize("which", ["worker", "vllm"])
async def test_what_answers_is_killed(twins: Twins, measured: Measured, which: str) -> None:
    part: Part = twins.mesh.workers[0] if which == "worker" else twins.sims[0]
    code = "worker_lost" if which == "worker" else "upstream_broken"
    streams = await twins.spread(stream=True, tokens=LONG)
    wholes = await twins.spread(stream=False, tokens=MODERATE)
    for stream in streams:
        await stream.begun()
    killed = time.monotonic()
    await part.kill()
    assert await streams[0].ending() == code
    assert await endings(wholes) == [WHOLE, WHOLE]  # nothing of it had been promised: the other worker answers
    measured(f"{which} killed: its stream ended", streams[0].ended_at - killed)
    assert [await twins.ask() for _ in range(4)] == [WHOLE] * 4
    assert not streams[1].over
    await streams[1].leave()
    await twins.until_idle()

    await part.start()
    measured(f"{which} back: it answers calls", await twins.until_used(0))


async def test_a_worker_that_falls_silent_is_left(twins: Twins, measured: Measured) -> None:
    streams = await twins.spread(stream=True, tokens=LONG)
    wholes = await twins.spread(stream=False, tokens=MODERATE)
    for stream in streams:
        await stream.begun()
    stopped = time.monotonic()
    twins.mesh.workers[0].send(signal.SIGSTOP)
    try:
        assert await streams[0].ending() == "worker_lost"
        measured("worker silent: its stream ended", streams[0].ended_at - stopped)
        assert await endings(wholes) == [WHOLE, WHOLE]
        assert not streams[1].over
        await streams[1].leave()
        assert await twins.ask() == WHOLE
    finally:
        twins.mesh.workers[0].send(signal.SIGCONT)
    measured("worker speaks again: it is ready", await twins.until_ready(2))


# The parts on the way


async def test_the_router_is_killed(twins: Twins, measured: Measured) -> None:
    calls = [*await twins.spread(stream=True, tokens=LONG), *await twins.spread(stream=False, tokens=LONG)]
    for stream in calls[:2]:
        await stream.begun()
    killed = time.monotonic()
    await twins.mesh.router.kill()
    assert await endings(calls) == ["router_unavailable"] * 4
    assert [call.status for call in calls] == [200, 200, 503, 503]
    measured("router killed: every call ended", slowest(calls, killed))
    measured("router killed: nothing is computed", await twins.until_idle())

    waiting = Call(twins.mesh, stream=False)
    await twins.mesh.router.start()
    assert await twins.until_served() < 30
    measured("router back: both workers are ready", await twins.until_ready(2))
    assert await waiting.ending() == WHOLE


async def test_the_facade_is_killed(twins: Twins, measured: Measured) -> None:
    calls = [*await twins.spread(stream=True, tokens=LONG), *await twins.spread(stream=False, tokens=LONG)]
    for stream in calls[:2]:
        await stream.begun()
    killed = time.monotonic()
    await twins.mesh.facade.kill()
    assert await endings(calls) == [CUT] * 4
    measured("facade killed: every call ended", slowest(calls, killed))
    measured("facade killed: nothing is computed", await twins.until_idle())
    await twins.mesh.facade.start()
    measured("facade back: a call is answered", await twins.until_served())


async def test_the_registry_away_disturbs_nobody(twins: Twins, measured: Measured) -> None:
    stream = Call(twins.mesh, stream=True, tokens=LONG)
    await stream.begun()
    await twins.mesh.registry.kill()
    assert [await twins.ask(stream=streamed) for streamed in (True, False)] == [WHOLE, WHOLE]
    assert not stream.over

    await twins.mesh.router.kill()  # its successor knows the catalogue from a file
    assert await stream.ending() == "router_unavailable"
    await twins.mesh.router.start()
    measured("router back without a registry: both workers are ready", await twins.until_ready(2))
    assert await twins.ask() == WHOLE
    await twins.mesh.registry.start()


async def test_auth_away_disturbs_no_known_caller(twins: Twins, measured: Measured) -> None:
    stranger = await twins.mesh.create_key()
    stream = Call(twins.mesh, stream=True, tokens=LONG)
    await stream.begun()
    await twins.mesh.auth.kill()
    assert await twins.ask() == WHOLE
    unknown = Call(twins.mesh, stream=False, key=stranger)
    assert (await unknown.ending(), unknown.status) == ("auth_unavailable", 503)
    assert not stream.over

    worker = twins.mesh.workers[0]
    await worker.kill()
    await worker.start()  # it cannot enrol yet, and is not to give up
    await twins.until_ready(1)
    began = time.monotonic()
    await twins.mesh.auth.start()
    await twins.mesh.until(
        lambda: twins.ask(key=stranger), lambda ending: ending == WHOLE, "a caller unknown so far is served"
    )
    measured("auth back: a caller unknown so far is served", time.monotonic() - began)
    measured("auth back: a worker has enrolled", await twins.until_ready(2))
    await stream.leave()


# With one worker


async def test_the_only_vllm_is_killed_and_launched_again(start_mesh: StartMesh, measured: Measured) -> None:
    mesh = await start_mesh(router={"wait_for_worker_s": 25})
    stream, whole = Call(mesh, stream=True, tokens=LONG), Call(mesh, stream=False, tokens=150)
    await stream.begun()
    killed = time.monotonic()
    (vllm,) = descendants(mesh.workers[0].pid)
    os.kill(vllm, signal.SIGKILL)
    assert await stream.ending() == "upstream_broken"
    assert await whole.ending() == WHOLE  # it waited for the vLLM's successor
    measured("the only vLLM killed: a call that waited is answered", whole.ended_at - killed)


async def test_the_only_worker_is_killed(start_mesh: StartMesh, measured: Measured) -> None:
    mesh = await start_mesh(router={"wait_for_worker_s": 2})
    (worker,) = mesh.workers
    stream, whole = Call(mesh, stream=True, tokens=LONG), Call(mesh, stream=False, tokens=LONG)
    await stream.begun()
    # Not yet at a worker when that is killed, it would hear that there is none.
    await mesh.until(lambda: mesh.router.metric("weft_router_open_calls"), lambda now: now == 2, "both are under way")
    (vllm,) = descendants(worker.pid)
    killed = time.monotonic()
    await worker.kill()
    assert await endings([stream, whole]) == ["worker_lost", "worker_lost"]
    assert whole.status == 502
    measured("the only worker killed: every call ended", slowest([stream, whole], killed))
    await mesh.until(gone(vllm), bool, "its vLLM, which would hold the GPU, has ended too")

    refused = Call(mesh, stream=False)
    assert (await refused.ending(), refused.status) == ("no_worker", 503)
    assert int(refused.headers["Retry-After"]) >= 1
    assert 1.5 < refused.seconds < 30

    waiting = Call(mesh, stream=False)
    await worker.start()
    await mesh.until_attached(1)
    assert await Call(mesh, stream=False).ending() == WHOLE
    assert await waiting.ending() in (WHOLE, "no_worker")  # it waits no longer than it is told
