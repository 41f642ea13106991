"""One child process: started, ready and ended are things to await."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from services.runtime.lifeline import tied
from services.runtime.readiness import Ready

START_TIMEOUT = 60.0
"""Seconds in which a child must have announced itself."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run. `environ` comes on top of this process's own. A child that `announces` takes `--ready-fd`."""

    name: str
    command: Sequence[str]
    log_file: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    announces: bool = True


class ChildError(Exception):
    """A child did not become ready; the message holds the end of its log."""


class Child:
    """A run of a `ChildSpec`, in a session of its own, so that a terminal's Ctrl-C reaches the parent alone."""

    def __init__(
        self, spec: ChildSpec, process: asyncio.subprocess.Process, announcement: asyncio.Task[bytes], begins: int
    ) -> None:
        self.spec = spec
        self._process = process
        self._announcement = announcement
        self._begins = begins

    @property
    def said(self) -> str:
        """The last lines of its log, without those of runs before."""
        return tail(self.spec.log_file, self._begins)

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    async def ready(self) -> Ready:
        """What the child announces. Raises `ChildError` if it ends before, or takes longer than `START_TIMEOUT`."""
        try:
            line = await asyncio.wait_for(asyncio.shield(self._announcement), START_TIMEOUT)
        except TimeoutError:
            raise ChildError(f"{self.spec.name} was not ready within {START_TIMEOUT:g} s.\n{self.said}") from None
        if not line:
            await self.died()
        return Ready.from_json(line)

    async def died(self) -> NoReturn:
        """Waits for its end, and raises `ChildError`."""
        code = await self.wait()
        raise ChildError(f"{self.spec.name} ended with {describe_exit(code)}.\n{self.said}")

    async def wait(self) -> int:
        """Waits for its end, and gives its exit code; minus the signal's number if a signal ended it."""
        return await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, grace: float) -> int:
        """Asks it to end, and after `grace` seconds kills it with all that it started."""
        self.send(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self.wait(), grace)
        except TimeoutError:
            self.kill()
            code = await self.wait()
        self._announcement.cancel()
        return code

    def kill(self) -> None:
        """Ends it at once, with all that it started in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


async def start_child(spec: ChildSpec) -> Child:
    """Starts a child; its output goes to the end of its log."""
    spec.log_file.parent.mkdir(parents=True, exist_ok=True)
    command = list(spec.command)
    reading, writing = os.pipe()
    try:
        if spec.announces:
            command += ["--ready-fd", str(writing)]
        with spec.log_file.open("ab") as log:
            begins = log.tell()
            process = await asyncio.create_subprocess_exec(
                *tied(command),
                env={**os.environ, **spec.environ},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(writing,) if spec.announces else (),
                start_new_session=True,
            )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return Child(spec, process, asyncio.ensure_future(_read_line(reading)), begins)


async def _read_line(descriptor: int) -> bytes:
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        return await reader.readline()
    finally:
        transport.close()


def describe_exit(code: int) -> str:
    """An exit code in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def tail(log_file: Path, begins: int = 0, lines: int = 12) -> str:
    """The last lines of a log from a byte on, for people: of JSON lines, the level, the event and the exception."""
    try:
        with log_file.open("rb") as log:
            log.seek(max(begins, log_file.stat().st_size - 64 * 1024))
            last = log.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return "\n".join(_readable(line) for line in last)


def _readable(line: str) -> str:
    try:
        entry = json.loads(line)
        text = f"{entry['level']}: {entry['event']}"
    except (ValueError, KeyError, TypeError):
        return line
    return f"{text}\n{entry['exception']}" if "exception" in entry else text
