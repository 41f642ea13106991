"""Processes of a test: each in its own group, its log in a file, gone at the end whatever happens."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.runtime.lifeline import tied
from tests.testing.processes import HeldPort

POLL_SECONDS = 0.05

_held: list[HeldPort] = []


def free_port() -> int:
    """A port of loopback that nobody else is given while the tests run: vLLM takes seconds until it listens on its own,
    and is killed and started again.
    """
    _held.append(HeldPort())
    return _held[-1].port


class Process:
    """A command in its own process group. Its output goes to `log`, and into the message of what fails. It ends, too,
    when the test run dies without cleaning up, as when that is killed itself.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command = list(command)
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                tied(self.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Signal the leader alone, as an operator or a service manager would."""
        self._popen.send_signal(number)

    def wait(self, seconds: float) -> int:
        """The exit code; fails the test when the process is still there after `seconds`."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command[0]} still runs after {seconds} s\n{self.tail()}") from None

    def kill(self) -> None:
        """SIGKILL the whole group: vLLM's engine outlives a killed parent by seconds otherwise."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def stop(self, seconds: float = 10) -> None:
        """SIGTERM, then SIGKILL to what is left of the group after `seconds`."""
        if self.alive:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(seconds)
        self.kill()

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- the end of {self.log}", *text])


def children(pid: int) -> dict[int, list[str]]:
    """The command line of every descendant of `pid`, by process id."""
    parents: dict[int, int] = {}
    commands: dict[int, list[str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The command's name, in brackets, may hold spaces: the parent's id is the second field after it.
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_text().rstrip("\0").split("\0")
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return {child: commands[child] for child in found - {pid} if child in commands}


class Deadline:
    """Poll until something is so: `for _ in Deadline(10, "the call ends"): …; break`. Fails when it never is."""

    def __init__(self, seconds: float, awaited: str) -> None:
        self.seconds = seconds
        self.awaited = awaited
        self._started = time.monotonic()
        self._polled = False

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def __iter__(self) -> "Deadline":
        return self

    def __next__(self) -> float:
        """The seconds waited so far."""
        if self._polled:
            time.sleep(POLL_SECONDS)
        self._polled = True
        if self.elapsed > self.seconds:
            raise AssertionError(f"after {self.seconds} s still not so: {self.awaited}")
        return self.elapsed
