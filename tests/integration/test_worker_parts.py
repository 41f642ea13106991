"""Parts of a worker against real ones: the probe and a simulated vLLM, the launcher and real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from weft.session.v1 import frame_pb2

from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.core.inference import Request
from services.sim.config import SimConfig
from services.upstream.http import HttpInference, open_session
from services.worker.ending import WorkerFailedError
from services.worker.launch import Launcher
from services.worker.probe import Probe
from tests.testing.processes import HeldPort
from tests.testing.sim import running_sim
from tests.testing.streams import Answer

SOON = 20.0


class Reports:
    """A probe at work, and what it reports."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._seen: asyncio.Queue[frame_pb2.Report] = asyncio.Queue()
        self.gone: list[ServiceError] = []
        self.probe = Probe(http, url, interval=0.01, max_calls=7, changed=self._keep, gone=self.gone.append)

    def _keep(self, report: frame_pb2.Report) -> None:
        self._seen.put_nowait(frame_pb2.Report.FromString(report.SerializeToString()))

    async def until(self, state: frame_pb2.WorkerState.ValueType) -> frame_pb2.Report:
        """The next report with that state."""
        async with asyncio.timeout(SOON):
            while (report := await self._seen.get()).state != state:
                pass
        return report


@contextlib.asynccontextmanager
async def probing(url: str) -> AsyncIterator[Reports]:
    async with open_session(url) as http:
        reports = Reports(url, http)
        running = asyncio.create_task(reports.probe.run())
        yield reports
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_probe_tells_what_a_vllm_serves_and_how_it_is():
    async with running_sim(SimConfig(port=0, models=("a", "b"))) as (url, _), probing(url) as reports:
        report = await reports.until(frame_pb2.WORKER_STATE_READY)
        assert ([model.id for model in report.models], report.max_calls) == (["a", "b"], 7)
        assert '"root"' in report.models[0].card_json
        async with aiohttp.ClientSession() as session:
            await session.post(f"{url}/sim/faults", json={"refuse_health": True, "times": 3})
        report = await reports.until(frame_pb2.WORKER_STATE_UNHEALTHY)
        assert report.detail == f"vLLM at {url} answers its health check with 503"
        assert reports.gone == [], "once is no finding"
        await reports.until(frame_pb2.WORKER_STATE_READY)
        assert [error.reason for error in reports.gone] == [Reason.UPSTREAM_BROKEN]


async def test_a_vllm_that_is_not_there_yet_is_starting():
    port = HeldPort()
    url = f"http://127.0.0.1:{port.port}"
    async with probing(url) as reports:
        report = await reports.until(frame_pb2.WORKER_STATE_STARTING)
        assert report.detail.startswith(f"vLLM at {url} does not answer")
    port.close()


async def test_a_vllm_that_closes_its_port_has_gone():
    """Told to stop, vLLM closes its port at once, and may keep its open calls, and silent, for minutes."""
    hold = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegun")
            await hold.wait()
        writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    http = open_session(url)
    vllm = HttpInference(http, url, what="vLLM", bounds=Bounds())
    probe = Probe(http, url, interval=0.01, max_calls=1, changed=lambda _: None, gone=vllm.end_calls)
    running = asyncio.create_task(probe.run())
    answer, begun = Answer(), asyncio.Event()
    answer.on_data = lambda _: begun.set()
    vllm.open(Request("/v1/completions", (), b"{}"), answer, 1024)
    answer.opened = True
    async with asyncio.timeout(SOON):
        await begun.wait()
        listening.close()
        await answer.over.wait()
    assert (answer.reason, bytes(answer.body)) == (Reason.UPSTREAM_BROKEN, b"begun")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await vllm.close()
    hold.set()


async def started(fifo: Path) -> list[int]:
    """The process ids that the next run writes into the pipe."""
    line = await asyncio.wait_for(asyncio.to_thread(fifo.read_text), SOON)
    return [int(word) for word in line.split()]


async def gone(*pids: int) -> None:
    """Waits until the processes have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            ended, _, _ = await asyncio.to_thread(select.select, [handle], [], [], SOON)
            os.close(handle)
            assert ended, f"process {pid} is still there"


SERVER = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("begun", flush=True)
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
child.wait()
"""


async def test_a_launched_vllm_is_restarted_and_stopped_with_all_its_processes(tmp_path):
    fifo, log = tmp_path / "pids", tmp_path / "logs" / "vllm.log"
    os.mkfifo(fifo)
    launcher = Launcher((sys.executable, "-c", SERVER, str(fifo)), log, grace=5)
    running = asyncio.create_task(launcher.run())
    server, engine = await started(fifo)
    os.kill(server, 9)
    again, engine_again = await started(fifo)
    await gone(server, engine)
    assert again != server
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await gone(again, engine_again)
    assert log.read_text() == "begun\n" * 2


async def test_a_program_that_is_not_there():
    with pytest.raises(WorkerFailedError, match="no program 'no-such-program'"):
        await Launcher(("no-such-program",), None, grace=1).run()
