"""An audit log: lines that are chained (`audit_chain`), in a file that is only appended to (`audit_file`), written by a
thread that waits for the disk.

Whoever may not go on before a line is on the disk is told when it is; the lines of all who wait are synced together.
Where the disk takes nothing, they are told so, and the next line tries again: once there is room, all goes on without
a restart. Lines that nobody waits for stay until then, as many as `_WAITING`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib.metadata
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from services.core.errors import Reason, ServiceError
from services.runtime.audit_file import AuditFile

log = logging.getLogger(__name__)

FILE: Final = "audit.log"
_WAITING: Final = 10_000
"""Lines that may wait for the disk. More, and whoever must be written is refused; what need not be is dropped."""
_AGAIN: Final = 1.0
"""Seconds until lines that nobody waits for are tried again."""
_ROTATE_BYTES: Final = 64 * 1024 * 1024

Written = Callable[[str], None]
"""Told, by the thread that writes, that a line is on the disk, or else why not, in words."""


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line about the log itself: `opened` at each start of a process, `closed` at an orderly stop."""

    time: str
    event: str
    service: str
    version: str
    host: str
    pid: int
    dropped: int = 0
    """Lines that were lost since the last such line, as the disk took nothing for too long."""


class _Waiting(NamedTuple):
    body: bytes
    written: Written | None
    keep: bool


class AuditLog:
    """Append to it from any thread. `clock` gives seconds: how old a problem is."""

    def __init__(
        self,
        file: Path,
        *,
        service: str = "",
        rotate_bytes: int = _ROTATE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._service = service or file.parent.name
        self._file = AuditFile(file, rotate_bytes=rotate_bytes, now=stamp)
        self._lines: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closing = threading.Lock()
        self._kept: list[_Waiting] = []
        self._dropped = 0
        self._problem = ""
        self._problem_at = 0.0
        self._idle: Callable[[], None] = lambda: None

    @property
    def file(self) -> Path:
        """Where it is written."""
        return self._file.file

    @property
    def problem(self) -> str:
        """Why nothing can be written, in words, as of the last second; else empty."""
        if self._full:
            return self._too_slow
        return self._problem if self._clock() - self._problem_at < _AGAIN else ""

    def on_idle(self, call: Callable[[], None]) -> None:
        """Has the writer call this every second or so, to append what has become due."""
        self._idle = call

    def start(self) -> None:
        """Opens it, if it is not open. Raises OSError."""
        with self._starting:
            self._start()

    def _start(self) -> None:
        if self._writer is None:
            self._file.open()
            self._put(self._mark("opened"))
            self._writer = threading.Thread(target=self._run, name="audit log", daemon=True)
            self._writer.start()

    def append(self, entry: msgspec.Struct, written: Written | None = None, *, keep: bool = True) -> None:
        """Has a line written. With `keep`, it is written later where it cannot be now; without, whoever waits for it
        has been told, and goes no further. Never raises.
        """
        if self._full:
            self._dropped += written is None
            if written is not None:
                written(self._too_slow)
            return
        try:
            with self._starting:
                self._start()
                self._put(entry, written, keep=keep)
        except OSError as error:
            self._set_problem(error)
            self._dropped += written is None
            if written is not None:
                written(self._problem)

    async def commit(self, entry: msgspec.Struct, *, keep: bool = False) -> str:
        """Has a line written, and returns when it is on the disk: empty, or why it is not."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str] = loop.create_future()

        def settle(problem: str) -> None:
            if not done.done():
                done.set_result(problem)

        def written(problem: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(settle, problem)

        self.append(entry, written, keep=keep)
        return await done

    def close(self) -> None:
        """Writes what waits, and returns when it is on the disk, if that takes it. Blocks.

        What is appended meanwhile is left to the same writer, or to one that begins when it has ended: two at once
        would take each other's lines, and also the word to end, for which this would wait for ever.
        """
        with self._closing:
            writer = self._writer
            if writer is None:
                return
            self._idle()
            self._put(self._mark("closed"))
            self._lines.put(None)
            writer.join()
            with self._starting:
                self._writer = None
                if not self._lines.empty():
                    self._start()

    @property
    def _full(self) -> bool:
        return self._lines.qsize() + len(self._kept) >= _WAITING

    @property
    def _too_slow(self) -> str:
        return f"{self.file} does not keep up"

    def _mark(self, event: str) -> Mark:
        version = importlib.metadata.version("weft")
        return Mark(stamp(), event, self._service, version, socket.gethostname(), os.getpid(), self._dropped)

    def _put(self, entry: msgspec.Struct, written: Written | None = None, *, keep: bool = True) -> None:
        self._lines.put(_Waiting(msgspec.json.encode(entry), written, keep))

    def _run(self) -> None:
        over = False
        while not over:
            taken = self._take()
            over = None in taken
            self._write([*self._kept, *(line for line in taken if line is not None)])
            self._idle()
        if self._kept:
            log.error("%d lines of %s are lost: %s", len(self._kept), self.file, self._problem)
            self._kept.clear()
        self._file.close()

    def _take(self) -> list[_Waiting | None]:
        """What waits, after the first of it has come; nothing after a second."""
        taken: list[_Waiting | None] = []
        with contextlib.suppress(queue.Empty):
            taken.append(self._lines.get(timeout=_AGAIN))
            while True:
                taken.append(self._lines.get_nowait())
        return taken

    def _write(self, lines: list[_Waiting]) -> None:
        if not lines:
            return
        try:
            self._file.append([line.body for line in lines])
        except OSError as error:
            self._set_problem(error)
            self._kept = [line._replace(written=None) for line in lines if line.keep]
            problem = self._problem
        else:
            self._kept, self._problem, problem = [], "", ""
        for line in lines:
            if line.written is not None:
                line.written(problem)

    def _set_problem(self, error: OSError) -> None:
        said = f"{self.file} cannot be written: {error.strerror or error}"
        if said != self._problem:
            log.error("%s; what must stand there is refused until there is room", said)
        self._problem, self._problem_at = said, self._clock()


def stamp() -> str:
    """The time as lines say it: RFC 3339, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def refused(what: str, problem: str) -> ServiceError:
    """The error for whom nothing is done, as it cannot be written first: `what` says what it is that must be."""
    message = f"{what}, and {problem}; nothing was done. Make room there: it is tried anew each time."
    return ServiceError(Reason.OVERLOADED, message, retry_after=1.0)
