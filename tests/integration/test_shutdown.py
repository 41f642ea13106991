"""SIGTERM lets calls in flight finish, for as long as the grace; a second one ends a part at once."""

import signal
import time
from pathlib import Path

import pytest

from services.runtime.child import tail
from tests.integration.conftest import Measured
from tests.testing.calls import CUT, WHOLE, Call
from tests.testing.mesh import Mesh, StartMesh
from tests.testing.process_tree import descendants, is_alive, is_open, listening_ports
from tests.testing.processes import Part
from tests.testing.twins import Twins
from tests.testing.up import Up

LONG = 30_000
"""Tokens of an answer that outlives its test."""
FEW = 500
"""Tokens of an answer that takes longer than it takes a busy machine to see all calls under way, and less than the
grace.
"""


async def told(twins: Twins, part: Part, word: str) -> None:
    """Waits until a part has said in its log that it stops."""
    log = part.spec.log_file
    before = log.stat().st_size  # the same words of an earlier run may stand there
    part.send(signal.SIGTERM)

    async def said() -> str:
        return tail(log, before, lines=60)

    await twins.mesh.until(said, lambda lines: word in lines, f"{part.name} says that it stops")


async def under_way(mesh: Mesh, *calls: Call) -> None:
    """Waits until these calls, and no others, are at workers: of one that is not streamed, nothing else tells."""

    async def there() -> float:
        assert not any(call.over for call in calls), "one ended before the others had begun"
        return await mesh.router.metric("weft_router_outstanding_calls")

    await mesh.until(there, lambda now: now == len(calls), f"{len(calls)} calls are at workers")


async def test_a_worker_finishes_its_calls_and_new_ones_go_elsewhere(twins: Twins, measured: Measured) -> None:
    calls = [*await twins.spread(stream=True, tokens=FEW), *await twins.spread(stream=False, tokens=FEW)]
    worker = twins.mesh.workers[0]
    await told(twins, worker, "draining")
    others = [Call(twins.mesh, stream=True, tokens=LONG) for _ in range(4)]
    for call in others:
        await call.begun()
    assert (await twins.computing())[1] >= len(others)
    for call in others:
        await call.leave()
    assert [await call.ending() for call in calls] == [WHOLE] * 4
    assert await worker.ended() == 0
    measured("worker told to stop, its calls done: it has ended", time.monotonic() - max(c.ended_at for c in calls))


async def test_the_router_finishes_its_calls_and_new_ones_wait(twins: Twins, measured: Measured) -> None:
    # Not FEW: the facade has the call wait for the router for so long, too.
    stream, whole = Call(twins.mesh, stream=True, tokens=300), Call(twins.mesh, stream=False, tokens=300)
    await stream.begun()
    await under_way(twins.mesh, stream, whole)
    await told(twins, twins.mesh.router, "stopping")
    waiting = Call(twins.mesh, stream=False)
    assert [await stream.ending(), await whole.ending()] == [WHOLE, WHOLE]
    assert await twins.mesh.router.ended() == 0
    measured("router told to stop, its calls done: it has ended", time.monotonic() - whole.ended_at)
    await twins.mesh.router.start()
    assert await waiting.ending() == WHOLE
    measured("router restarted in order: a call that came meanwhile is answered", waiting.seconds)


async def test_the_facade_finishes_its_calls(twins: Twins, measured: Measured) -> None:
    stream, whole = Call(twins.mesh, stream=True, tokens=FEW), Call(twins.mesh, stream=False, tokens=FEW)
    await stream.begun()
    await under_way(twins.mesh, stream, whole)
    await told(twins, twins.mesh.facade, "stopping")
    assert [await stream.ending(), await whole.ending()] == [WHOLE, WHOLE]
    assert await twins.mesh.facade.ended() == 0
    measured("facade told to stop, its calls done: it has ended", time.monotonic() - whole.ended_at)


@pytest.mark.parametrize("service", ["auth", "registry"])
async def test_what_is_on_no_way_ends_at_once(twins: Twins, measured: Measured, service: str) -> None:
    stream = Call(twins.mesh, stream=True, tokens=LONG)
    await stream.begun()
    began = time.monotonic()
    assert await getattr(twins.mesh, service).terminate() == 0
    took = time.monotonic() - began
    measured(f"{service} told to stop: it has ended", took)
    assert took < twins.mesh.options.grace, "it waited for streams that never end"
    assert not stream.over
    await stream.leave()


async def test_a_second_signal_ends_a_part_at_once(twins: Twins) -> None:
    for part, word, code in (
        (twins.mesh.workers[0], "draining", "worker_lost"),
        (twins.mesh.router, "stopping", "router_unavailable"),
        (twins.mesh.facade, "stopping", CUT),
    ):
        await twins.restore()
        calls = await twins.spread(stream=True, tokens=LONG)
        await calls[0].begun()
        await told(twins, part, word)
        assert not calls[0].over
        began = time.monotonic()
        assert await part.terminate() != 0
        assert await calls[0].ending() == code
        assert time.monotonic() - began < twins.mesh.options.grace
        await calls[1].leave()


async def test_calls_longer_than_the_grace_are_cut_visibly(start_mesh: StartMesh, measured: Measured) -> None:
    mesh = await start_mesh(grace=1.0, router={"wait_for_worker_s": 1}, facade={"wait_for_router_s": 20})
    for part, codes in (
        (mesh.workers[0], ["shutting_down", "shutting_down"]),
        (mesh.router, ["shutting_down", "shutting_down"]),
        (mesh.facade, ["shutting_down", "shutting_down"]),
    ):
        stream, whole = Call(mesh, stream=True, tokens=LONG), Call(mesh, stream=False, tokens=LONG)
        await stream.begun()
        await under_way(mesh, stream, whole)
        began = time.monotonic()
        assert await part.terminate() == 0
        assert [await stream.ending(), await whole.ending()] == codes
        assert stream.ended_at - began >= mesh.options.grace
        measured(f"{part.name}: a stream longer than the grace of 1 s ended", stream.ended_at - began)
        if part is not mesh.facade:
            await mesh.until(mesh.sessions, lambda seen: not seen, "no worker is attached, nor seems to be")
            await part.start()
            await mesh.until_attached(1)


async def test_ctrl_c_lets_calls_finish_and_leaves_nothing(tmp_path: Path) -> None:
    up = Up(tmp_path)
    try:
        await up.begin()
        pids = [up.pid, *descendants(up.pid)]
        ports = listening_ports(pids)
        stream = Call(up, stream=True, tokens=150)
        await stream.begun()
        up.send(signal.SIGINT)
        assert await stream.ending() == WHOLE
        assert await up.ended() == 0
        assert [pid for pid in pids if is_alive(pid)] == []
        assert [port for port in ports if is_open(port)] == []
    finally:
        up.clear_away()
