"""The processes of a test's mesh: each can be killed, stopped and started again on its port."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from services.runtime.child import ChildSpec, tail
from services.runtime.lifeline import tied
from services.runtime.readiness import Ready

SOON = 30.0
"""Seconds after which a test gives up waiting for an event; a busy machine may starve a process for a second."""


class HeldPort:
    """A port of loopback that belongs to the test for as long as this lives, between two runs of a server too."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        # On Linux, servers that reuse addresses may listen on a port that is bound here and not listened on; nobody
        # else is given it.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        """Lets others have it."""
        self._socket.close()


class Part:
    """A process of the mesh. `ready` holds what it announced; a part that does not announce itself has none."""

    def __init__(self, spec: ChildSpec) -> None:
        self.name = spec.name
        self.spec = spec
        self.ready: Ready | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def address(self) -> str:
        """Where it listens, `host:port`, as it announced."""
        assert self.ready is not None, f"{self.name} does not announce an address"
        return self.ready.address

    @property
    def log(self) -> str:
        """The end of its log, of all its runs."""
        return tail(self.spec.log_file, lines=60)

    # Its life

    def launch(self) -> None:
        """Starts its process, and does not wait for anything."""
        assert not self.running, f"{self.name} is running already"
        self.spec.log_file.parent.mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        flags = ["--ready-fd", str(writing)] if self.spec.announces else []
        with self.spec.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                tied([*self.spec.command, *flags]),
                env=_environ(self.spec.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                start_new_session=True,
            )
        os.close(writing)
        self._pipe = reading

    def wait_ready(self) -> None:
        """Waits until it announces itself; fails if it ends before."""
        if not self.spec.announces:
            return
        line = b""
        until = time.monotonic() + SOON
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self._pipe], [], [], max(0, until - time.monotonic()))
            assert readable, f"{self.name} was not ready within {SOON:g} s\n{self.log}"
            piece = os.read(self._pipe, 4096)
            assert piece, f"{self.name} ended before it was ready\n{self.log}"
            line += piece
        os.close(self._pipe)
        self.ready = Ready.from_json(line)

    async def start(self) -> None:
        """Starts it, and returns when it is ready; on the port that it had before, if it ran before."""
        self.launch()
        await asyncio.to_thread(self.wait_ready)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process alone."""
        self._started().send_signal(number)

    async def freeze(self) -> None:
        """SIGSTOP; returns when all its threads stand. SIGCONT lets it go on."""
        self.send(signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    async def kill(self) -> None:
        """SIGKILL to the process alone, as the out-of-memory killer does it; returns when it is gone."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def terminate(self) -> int:
        """SIGTERM; returns its exit code when it has ended."""
        self.send(signal.SIGTERM)
        return await self.ended()

    async def restart(self) -> None:
        """SIGTERM, then a new start; returns when it is ready."""
        await self.terminate()
        await self.start()

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        return await asyncio.to_thread(self._started().wait, SOON)

    def clear_away(self) -> None:
        """Ends it and all that it started, whatever state it is in."""
        if self._process is None:
            return
        if self.running:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    # Its counters

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name which have these labels; 0 if there are none."""
        assert self.ready is not None, f"{self.name} has no metrics"
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.ready.metrics}/metrics") as response:
            text = await response.text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def memory(self) -> int:
        """Its resident memory, in bytes (Linux)."""
        with open(f"/proc/{self.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was never started"
        return self._process


def _environ(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment without the developer's own settings of Weft."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    return {**ours, **settings}
