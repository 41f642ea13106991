"""The audit log of calls: who had what done where, when and with which outcome, and nothing of what was said.

A Globus Compute endpoint of high assurance logs the tasks that it runs. The calls of a session are no tasks: what they
do shows here alone. Two lines of JSON tell of a call at a server, one before the server has seen anything of it, one
when it is over there; a call without its second line was under way when the router died.
"""

from __future__ import annotations

import datetime
import os
import queue
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from services.core.errors import Reason, ServiceError
from services.core.inference import Request
from services.router.targets import Server

_WAITING: Final = 10_000
"""Lines that may wait for the disk before calls that are to be audited are refused: none goes unwritten."""


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `attempt` is the same in the two lines of a call at a server; times are RFC 3339, in UTC."""

    time: str
    event: str
    attempt: str
    request_id: str
    principal: str
    operation: str
    model: str
    endpoint: str
    instance: str
    start: str = ""
    outcome: str = ""
    status: int = 0


class AuditLog:
    """Appends to a file that its owner alone may read; a thread of its own waits for the disk."""

    def __init__(self, file: Path, *, now: Callable[[], datetime.datetime] | None = None) -> None:
        self._file = file
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._broken = ""

    def begin(self, request: Request, *, caller: str, model: str, server: Server) -> Callable[[str, int], None]:
        """Writes that a call goes to a server, and gives what writes its outcome and HTTP status, 0 if it had none.

        Raises OVERLOADED where it cannot be written: then it must not go.
        """
        if self._broken:
            raise ServiceError(Reason.OVERLOADED, f"Calls to this endpoint are audited, and {self._broken}.")
        if self._lines.qsize() >= _WAITING:
            message = "Calls to this endpoint are audited, and the audit log does not keep up; try again shortly."
            raise ServiceError(Reason.OVERLOADED, message, retry_after=1.0)
        if self._writer is None:
            self._start()
        entry = Entry(
            self._stamp(),
            "begin",
            secrets.token_hex(8),
            request.header("x-request-id") or "",
            caller,
            request.operation,
            model,
            server.endpoint,
            server.instance,
            server.start,
        )
        self._put(entry)

        def end(outcome: str, status: int) -> None:
            self._put(msgspec.structs.replace(entry, time=self._stamp(), event="end", outcome=outcome, status=status))

        return end

    def close(self) -> None:
        """Writes what waits, and returns when it is on the disk."""
        if self._writer is not None:
            self._lines.put(None)
            self._writer.join()
            self._writer = None

    def _stamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")

    def _put(self, entry: Entry) -> None:
        if not self._broken:
            self._lines.put(msgspec.json.encode(entry) + b"\n")

    def _start(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            message = f"Calls to this endpoint are audited, and {self._file} cannot be written: {error.strerror}."
            raise ServiceError(Reason.OVERLOADED, message) from error
        self._writer = threading.Thread(target=self._write, args=(descriptor,), name="audit log", daemon=True)
        self._writer.start()

    def _write(self, descriptor: int) -> None:
        over = False
        while not over:
            lines = [self._lines.get()]
            while not self._lines.empty():
                lines.append(self._lines.get_nowait())
            over = None in lines
            if not self._broken:
                self._append(descriptor, b"".join(line for line in lines if line is not None))
        os.close(descriptor)

    def _append(self, descriptor: int, text: bytes) -> None:
        try:
            while text:
                text = text[os.write(descriptor, text) :]
            os.fsync(descriptor)
        except OSError as error:  # a full disk: what was told before is still taken in, and nothing new goes out
            self._broken = f"its audit log {self._file} cannot be written: {error.strerror}"
