"""Launches a vLLM and keeps it running: restarts it with growing pauses, keeps its log, stops all its processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from services.runtime.lifeline import tied
from services.worker.ending import Exit, WorkerFailedError
from services.worker.progress import LogTail, failure

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_SETTLED: Final = 60.0
"""Seconds of life after which a vLLM's next death is taken for a new trouble, not for the last one again."""


class Launcher:
    """One vLLM as a child process. Its output goes to `log_file`, or with ours if there is none. After `restarts`
    failures in a row it is given up; None means never. `environment` is what it gets beside ours.

    `log_begins` is where in its file the log of the present run begins. `failed` is what its last run ended with, as a
    sentence, from then until it serves again.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        log_file: Path | None,
        *,
        grace: float,
        restarts: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._environment = {**os.environ, **(environment or {})}
        self._log_file = log_file
        self._grace = grace
        self._restarts = restarts
        self._failures = 0
        self._serves = False
        self.log_begins = 0
        self.failed = ""
        self._process: asyncio.subprocess.Process | None = None
        self._tail = LogTail(log_file, lambda: self.log_begins) if log_file is not None else None

    async def run(self) -> None:
        """Starts it again whenever it ends, until cancelled; then stops it. Raises `WorkerFailedError` if it cannot be
        started at all, or has failed too often.
        """
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        if shutil.which(self._command[0]) is None:
            message = f"vLLM cannot be started: there is no program '{self._command[0]}'."
            raise WorkerFailedError(Exit.VLLM_FAILED, message)
        try:
            while True:
                started = loop.time()
                self._serves = False
                status = await self._run_once()
                settled = loop.time() - started > _SETTLED
                if settled:
                    pause = _FIRST_PAUSE
                # A large model takes minutes to load, and may fail each time at the end of it.
                self._failures = 1 if settled and self._serves else self._failures + 1
                self.failed = await self._explain(status)
                if self._failures == self._restarts:
                    often = f", {self._failures} times in a row" if self._failures > 1 else ""
                    raise WorkerFailedError(Exit.VLLM_FAILED, f"{self.failed}{often}.")
                log.error("%s; starting it again in %.1f s", self.failed, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            await self._stop()

    def serves(self) -> None:
        """It answers: what failed before is over."""
        self._serves = True
        self.failed = ""

    async def progress(self) -> str:
        """What it is doing while it starts; empty if that is not known."""
        if self.failed:
            return f"{self.failed}; it is started again"
        return await self._tail.progress() if self._tail is not None else ""

    async def _explain(self, status: int) -> str:
        # Once it serves, its log may hold what it was asked.
        said = failure(await self._tail.lines()) if self._tail is not None and not self._serves else ""
        ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"vLLM {ended}{': ' if said else ''}{said}"

    async def _run_once(self) -> int:
        with contextlib.ExitStack() as files:
            output = None
            if self._log_file is not None:
                self._log_file.parent.mkdir(parents=True, exist_ok=True)
                output = files.enter_context(self._log_file.open("ab"))
                self.log_begins = output.seek(0, os.SEEK_END)
            self._process = await asyncio.create_subprocess_exec(
                *tied(self._command),  # A worker that is killed leaves no vLLM behind, which would hold the GPU.
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                # A session of its own: vLLM's engine is a child of its server, and is to be reached by one signal; and
                # Ctrl-C in a terminal is to reach the worker alone, which drains first.
                start_new_session=True,
            )
        log.info("started vLLM as process %s: %s", self._process.pid, " ".join(self._command))
        status = await self._process.wait()
        # Its engine may outlive a server that was killed, and would hold the GPU.
        _signal_group(self._process.pid, signal.SIGKILL)
        return status

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), self._grace)
        finally:  # also when somebody in a hurry cancels the wait
            _signal_group(process.pid, signal.SIGKILL)
        await process.wait()


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
