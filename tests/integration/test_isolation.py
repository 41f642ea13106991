"""A client that hardly reads slows nobody, costs bounded memory, and is not ended for it; and very many at once."""

import asyncio
import json
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.load import StreamsResult, Target, paced_streams
from tests.integration.conftest import Measured
from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import Mesh, MeshOptions, hold, let_go
from tests.testing.processes import SOON
from tests.testing.simulator import Simulator
from tests.testing.up import Up

MANY = 2000
MIB = 1024 * 1024
PACED = ("--max-num-seqs", "4096", "--max-model-len", "1000000", "--inter-token-s", "0.25")


class Sluggish:
    """A client with a receive buffer of a few kilobytes that reads a byte now and then."""

    def __init__(self, mesh: Mesh, **body: object) -> None:
        host, _, port = mesh.url.removeprefix("http://").partition(":")
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect((host, int(port)))
        payload = json.dumps({"model": "sim-model", "messages": [{"role": "user", "content": "Go on."}], **body})
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {mesh.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        self._socket.sendall((head + payload).encode())
        self._socket.setblocking(False)

    async def read(self, size: int = 1) -> bytes:
        """What has come, at most so many bytes; waits for the first."""
        return await asyncio.get_running_loop().sock_recv(self._socket, size)

    async def rest(self) -> bytes:
        """All that is still to come, until the answer ends or the connection closes."""
        got = bytearray()
        async with asyncio.timeout(SOON):
            # Its end may come in two pieces, and the connection stays open.
            while not got.endswith(b"0\r\n\r\n") and (piece := await self.read(MIB)):
                got += piece
        return bytes(got)

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Site:
    """A mesh of one worker, and its vLLM."""

    mesh: Mesh
    sim: Simulator


@asynccontextmanager
async def started(home: Path, options: MeshOptions, *sim_flags: str) -> AsyncIterator[Site]:
    mesh, sim = hold(home, options), Simulator("sim", home, *sim_flags)
    try:
        sim.launch()
        await mesh.start()
        mesh.launch_worker(vllm_url=sim.url)
        await mesh.until_attached(1)
        yield Site(mesh, sim)
    finally:
        let_go(mesh)
        sim.clear_away()


async def twenty(mesh: Mesh) -> StreamsResult:
    return await paced_streams(Target(mesh.url, "sim-model", mesh.key), streams=20, tokens=100, ramp_s=0.2)


async def test_clients_that_hardly_read(tmp_path: Path, measured: Measured) -> None:
    """Four of them, with answers of some 40 MB each that vLLM gives as fast as it can, beside 20 others."""
    # Not much less: a simulator that stands still for some seconds is a stall too.
    hasty = ("--stall-timeout", "5", "--total-timeout", "12")
    options = MeshOptions(workers=0, router={"stall_timeout_s": 5, "total_timeout_s": 12}, worker=hasty)
    fast = ("--max-model-len", "1000000", "--inter-token-s", "0.00001")
    async with started(tmp_path / "home", options, *fast) as site:
        alone = await twenty(site.mesh)
        parts = (site.mesh.router, site.mesh.facade)
        before = [part.memory() for part in parts]
        slow = [Sluggish(site.mesh, stream=True, max_tokens=200_000) for _ in range(4)]
        try:
            for client in slow:
                assert await client.read() == b"H"
            beside = await twenty(site.mesh)
            assert (alone.intact, beside.intact) == (20, 20)
            grown = [
                part.memory() - was for part, was in zip((site.mesh.router, site.mesh.facade), before, strict=True)
            ]
            measured("20 streams alone", alone.seconds)
            measured("20 streams beside 4 clients that hardly read", beside.seconds)
            assert max(grown) < 32 * MIB, f"router and facade grew by {grown}"
            # That nothing moves is their own doing and no stall; in the end their time is up, and they hear of it.
            await site.mesh.until(lambda: timeouts(site, "total"), lambda ended: ended == 4, "their time is up")
            assert await timeouts(site, "stall") == 0
            for client in slow:
                assert b"total_timeout" in (await client.rest())[-500:]
        finally:
            for client in slow:
                client.close()
        await site.mesh.until(site.sim.running_calls, lambda running: running == 0, "vLLM computes no more")


async def timeouts(site: Site, which: str) -> float:
    return await site.mesh.router.metric("weft_router_calls_total", outcome=f"{which}_timeout")


# Very many


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> Iterator[None]:
    """Each stream is a connection of the test, of the facade and of the worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16384)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def assert_intact(result: StreamsResult) -> None:
    assert (result.complete, result.intact) == (MANY, MANY), result.first_error


async def test_2000_streams_at_once(tmp_path: Path, measured: Measured) -> None:
    async with started(tmp_path / "home", MeshOptions(workers=0, worker=("--max-calls", "4096")), *PACED) as site:
        target = Target(site.mesh.url, "sim-model", site.mesh.key)
        result = await paced_streams(target, streams=MANY, tokens=12, ramp_s=2.0)
        assert_intact(result)
        measured("2,000 streams of 3 s, separate processes", result.seconds)
        assert await site.sim.running_calls() == 0


async def test_2000_streams_at_once_in_one_process(tmp_path: Path, measured: Measured) -> None:
    sim = Simulator("sim", tmp_path, *PACED)
    up = Up(tmp_path, "--one-process", "--vllm-url", sim.url)
    try:
        sim.launch()
        await up.begin()
        target = Target(up.url, "sim-model", up.key)
        result = await paced_streams(target, streams=MANY, tokens=12, ramp_s=2.0)
        assert_intact(result)
        measured("2,000 streams of 3 s, one process", result.seconds)
        assert await sim.running_calls() == 0
        stream = Call(up, stream=True, tokens=12)
        await stream.begun()
        up.send(signal.SIGINT)
        assert await stream.ending() == WHOLE
        assert await up.ended() == 0
    finally:
        up.clear_away()
        sim.clear_away()
