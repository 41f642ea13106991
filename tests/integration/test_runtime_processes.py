"""Real processes: how one lives and ends, and how a parent keeps several."""

import asyncio
import json
import os
import select
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from services.runtime.child import Child, ChildError, ChildSpec, start_child
from services.runtime.home import run_file
from services.runtime.readiness import read_ready
from services.runtime.supervisor import Supervisor

PROGRAM = """
import asyncio, sys
from pathlib import Path
from services.core.errors import Reason, ServiceError
from services.runtime.logging import LogConfig
from services.runtime.metrics import MetricsConfig
from services.runtime.service import run_service

async def serve(process):
    {body}

home, name, _, ready_fd = sys.argv[1:]
sys.exit(run_service(name, serve, home=Path(home), log=LogConfig(), metrics=MetricsConfig(port={metrics}),
                     ready_fd=int(ready_fd)))
"""
READY = "process.ready(name, '127.0.0.1:1')\n    "
SERVES = READY + "await process.stopping.wait()"
HANGS = READY + "await asyncio.Event().wait()"

Start = Callable[..., Awaitable[Child]]


def spec(home: Path, name: str = "sample", body: str = SERVES, metrics: str = "None") -> ChildSpec:
    program = PROGRAM.format(body=body, metrics=metrics)
    return ChildSpec(name, (sys.executable, "-c", program, str(home), name), home / "log" / f"{name}.log")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    children: list[Child] = []

    async def start(body: str = SERVES, metrics: str = "None") -> Child:
        children.append(await start_child(spec(tmp_path, body=body, metrics=metrics)))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        await child.wait()


def logged(home: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (home / "log" / "sample.log").read_text().splitlines()]


async def ended(pid: int) -> None:
    """Waits for the end of a process that is not ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    await asyncio.to_thread(select.select, [descriptor], [], [], 30)
    os.close(descriptor)


async def test_a_service_announces_itself_and_stops_on_sigterm(tmp_path: Path, start: Start) -> None:
    child = await start()
    ready = await child.ready()
    assert (ready.service, ready.address, ready.pid) == ("sample", "127.0.0.1:1", child.pid)
    assert read_ready(run_file(tmp_path, "sample")) == ready
    child.send(signal.SIGTERM)
    assert await child.wait() == 0
    assert not run_file(tmp_path, "sample").exists()
    assert logged(tmp_path)[-1]["signal"] == "SIGTERM"


async def test_a_second_signal_ends_a_service_that_does_not_stop(tmp_path: Path, start: Start) -> None:
    child = await start(
        READY + "await process.stopping.wait(); print('asked', flush=True); await asyncio.Event().wait()"
    )
    await child.ready()
    child.send(signal.SIGINT)
    child.send(signal.SIGTERM)  # another signal, as two of a kind may become one
    assert await child.wait() in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert not run_file(tmp_path, "sample").exists()


async def test_a_known_error_is_told_in_a_sentence(tmp_path: Path, start: Start) -> None:
    child = await start("raise ServiceError(Reason.ARGUMENT_INVALID, 'The database is of a newer Weft.')")
    with pytest.raises(ChildError, match=r"exit code 1\.\ncritical: sample failed: The database is of a newer Weft\."):
        await child.ready()
    assert "exception" not in logged(tmp_path)[-1]


async def test_a_fault_of_ours_is_told_with_its_traceback(tmp_path: Path, start: Start) -> None:
    child = await start("raise KeyError('surprise')")
    assert await child.wait() == 1
    assert logged(tmp_path)[-1]["event"] == "sample failed: 'surprise'"
    assert "KeyError: 'surprise'" in logged(tmp_path)[-1]["exception"]


async def test_what_a_child_said_in_a_run_before_is_not_told_of_its_end(tmp_path: Path, start: Start) -> None:
    log = tmp_path / "log" / "sample.log"
    log.parent.mkdir()
    log.write_text("of the run before\n")
    child = await start("raise ServiceError(Reason.INTERNAL, 'Of this run.')")
    with pytest.raises(ChildError, match=r"Of this run\.") as caught:
        await child.ready()
    assert "of the run before" not in str(caught.value)
    assert "of the run before" in log.read_text()


async def test_metrics_are_served_where_the_announcement_says(start: Start) -> None:
    ready = await (await start(metrics="0")).ready()
    with await asyncio.to_thread(urllib.request.urlopen, f"http://{ready.metrics}/metrics") as answer:
        assert b"process_cpu_seconds_total" in answer.read()


async def test_children_are_stopped_in_order_the_last_started_first(tmp_path: Path) -> None:
    order = tmp_path / "order"
    body = SERVES + f"\n    with open({str(order)!r}, 'a') as file: file.write(name + ' ')"
    async with Supervisor(grace=10, tell=print) as supervisor:
        await supervisor.start_ready(*(spec(tmp_path, name, body) for name in ("auth", "router", "facade")))
    assert order.read_text() == "facade router auth "


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    async with Supervisor(grace=0.01, tell=print) as supervisor:
        child = await supervisor.start(spec(tmp_path, body=HANGS))
        await child.ready()
    assert await child.wait() == -signal.SIGKILL


async def test_a_child_that_dies_is_started_again_and_both_are_told(tmp_path: Path) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with Supervisor(grace=10, tell=told.put_nowait) as supervisor:
        child = await supervisor.start(spec(tmp_path))
        await child.ready()
        supervisor.keep()
        child.send(signal.SIGKILL)
        assert (await told.get()).startswith("sample ended with signal SIGKILL; restarting it in 0.5 s")
        assert await told.get() == "sample runs again"


async def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from tests.integration.test_runtime_processes import Path, Supervisor, spec

async def main():
    async with Supervisor(grace=10, tell=print) as supervisor:
        (ready,) = await supervisor.start_ready(spec(Path(sys.argv[1])))
        print(ready.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    await asyncio.wait_for(ended(child), 30)
    assert not run_file(tmp_path, "sample").exists()
