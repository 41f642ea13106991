"""Launches a vLLM and keeps it running: restarts it with growing pauses, keeps its log, stops all its processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Final

from services.runtime.lifeline import tied

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_SETTLED: Final = 60.0
"""Seconds of life after which a vLLM's next death is taken for a new trouble, not for the last one again."""


class Launcher:
    """One vLLM as a child process. Its output goes to `log_file`, or with ours if there is none."""

    def __init__(self, command: tuple[str, ...], log_file: Path | None, *, grace: float) -> None:
        self._command = command
        self._log_file = log_file
        self._grace = grace
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Starts it again whenever it ends, until cancelled; then stops it. Raises OSError if it cannot be started at
        all.
        """
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        if shutil.which(self._command[0]) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._command[0])
        try:
            while True:
                started = loop.time()
                status = await self._run_once()
                if loop.time() - started > _SETTLED:
                    pause = _FIRST_PAUSE
                log.error("vLLM ended with status %s; starting it again in %.1f s", status, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            await self._stop()

    async def _run_once(self) -> int:
        with contextlib.ExitStack() as files:
            output = None
            if self._log_file is not None:
                self._log_file.parent.mkdir(parents=True, exist_ok=True)
                output = files.enter_context(self._log_file.open("ab"))
            self._process = await asyncio.create_subprocess_exec(
                *tied(self._command),  # A worker that is killed leaves no vLLM behind, which would hold the GPU.
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
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
