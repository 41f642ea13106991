"""`weft up` and `weft demo`, as a newcomer types them."""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.testing.processes import SOON

WEFT = (sys.executable, "-m", "services.cli")
_PATIENCE = 3 * SOON
"""Seconds for a command: `weft up` starts a whole mesh, and itself gives up on a part that does not start."""

Run = Callable[..., Awaitable["Command"]]


class Command:
    """A `weft` command that runs, and what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def until(self, words: str) -> str:
        """The first line with these words; fails if the command ends before."""
        assert self.process.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while line := (await self.process.stdout.readline()).decode():
                    self.lines.append(line.rstrip())
                    if words in line:
                        return self.lines[-1]
        raise AssertionError(f"{words!r} was not printed, but:\n" + "\n".join(self.lines))

    async def end(self) -> int:
        """Its exit code, once it has ended; the rest of its output is in `lines`."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                while line := (await self.process.stdout.readline()).decode():
                    self.lines.append(line.rstrip())
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError("it did not end, and printed:\n" + "\n".join(self.lines)) from None

    def line(self, beginning: str) -> str:
        """The line that begins so."""
        return next(line for line in self.lines if line.startswith(beginning))


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """Runs `weft` in a home of the test's own."""
    commands: list[Command] = []
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    environ["WEFT_HOME"] = str(tmp_path / "home")

    async def run(*arguments: str) -> Command:
        process = await asyncio.create_subprocess_exec(
            *WEFT, *arguments, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        commands.append(Command(process))
        return commands[-1]

    yield run
    for command in commands:
        if command.process.returncode is None:
            command.process.terminate()
            await command.process.wait()


def descendants(pid: int) -> list[int]:
    """The processes below a process (Linux)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [*map(int, children), *(below for child in children for below in descendants(int(child)))]


def command_line(pid: int) -> str:
    """What a process was started with, each word ended by a zero (Linux)."""
    return Path(f"/proc/{pid}/cmdline").read_text()


async def gone(pids: list[int]) -> None:
    """Returns when none of the processes runs any more."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended, _, _ = await asyncio.to_thread(select.select, [descriptor], [], [], 30)
        os.close(descriptor)
        assert ended, f"process {pid} still runs"


async def shell(line: str) -> str:
    """What a pasted line prints."""
    process = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, line
    return output.decode()


@pytest.mark.parametrize(
    "flags", [(), ("--mtls",), ("--one-process", "--workers", "2")], ids=["processes", "mtls", "one-process"]
)
async def test_up_prints_lines_that_work_and_ctrl_c_leaves_nothing(run: Run, tmp_path: Path, flags: tuple[str]) -> None:
    up = await run("up", "--port", "0", *flags)
    await up.until("Ctrl-C stops everything.")
    assert (tmp_path / "home" / "dev.key").read_text().strip() in up.line("  Key")
    assert "data: [DONE]" in await shell(up.line("curl").replace("curl", "curl --silent --fail", 1))
    assert len((await shell(next(line for line in up.lines if "from openai import" in line))).split()) > 10
    assert ("for callers with certificates" in up.line("  gRPC")) == ("--mtls" in flags)

    pids = descendants(up.process.pid)
    assert len(pids) == (4 if "--one-process" in flags else 6)
    up.process.send_signal(signal.SIGINT)
    assert await up.end() == 0
    assert up.lines[-1] == "Stopped; nothing is left running."
    await gone(pids)
    assert list((tmp_path / "home" / "run").iterdir()) == []
    await traced(run)


async def traced(run: Run) -> None:
    """The calls were traced, and what had not been written yet was as the mesh ended."""
    listing = await run("trace", "--json")
    assert await listing.end() == 0
    calls = json.loads("\n".join(listing.lines))
    assert [(call["name"], call["status"]) for call in calls] == [("POST /v1/chat/completions", "ok")] * 2
    shown = await run("trace", calls[-1]["trace_id"][:12])
    assert await shown.end() == 0
    assert [line.split()[0] for line in shown.lines if "━" in line] == ["facade", "router", "router", "worker"]
    assert any("◆ first token" in line for line in shown.lines)


async def test_a_killed_up_leaves_nothing_and_the_next_one_starts(run: Run) -> None:
    up = await run("up", "--port", "0")
    await up.until("Ctrl-C stops everything.")
    second = await run("up", "--port", "0")
    assert await second.end() == 1
    assert f"(pid {up.process.pid}); stop it, or set WEFT_HOME" in second.lines[-1]

    pids = descendants(up.process.pid)
    up.process.kill()
    await up.process.wait()
    await gone(pids)
    again = await run("up", "--port", "0")
    await again.until("Ctrl-C stops everything.")


async def test_a_part_that_dies_is_started_again_and_it_is_said(run: Run) -> None:
    up = await run("up", "--port", "0")
    await up.until("Ctrl-C stops everything.")
    (router,) = [pid for pid in descendants(up.process.pid) if "serve\0router\0" in command_line(pid)]
    os.kill(router, signal.SIGKILL)
    assert (await up.until("router ended")).startswith("router ended with signal SIGKILL; restarting it in 0.5 s")
    await up.until("router runs again")
    await asyncio.wait_for(_status_is_good(run), 2 * SOON)


async def _status_is_good(run: Run) -> None:
    while await (await run("status")).end():
        pass


async def test_a_taken_port_is_told_with_the_way_out(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = await run("up", "--port", str(port))
        assert await up.end() == 1
    assert up.lines == [f"weft: Port {port} of 127.0.0.1 is in use; choose another with --port."]


async def test_a_worker_that_cannot_start_stops_everything_and_shows_its_log(run: Run) -> None:
    up = await run("up", "--port", "0", "--vllm-url", "ftp://nowhere")
    assert await up.end() == 1
    assert any(line.startswith("weft: worker-1 ended with exit code 2.") for line in up.lines)
    assert any("--vllm-url must be" in line for line in up.lines)


async def test_the_demo_answers_and_leaves_nothing(run: Run) -> None:
    demo = await run("demo")
    assert await demo.end() == 0
    output = "\n".join(demo.lines)
    assert "Models that you may call: sim-model" in output
    assert demo.lines[-1].startswith("Stopped; nothing is left running.")
