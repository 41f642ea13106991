"""The audit log of calls: who had what done where, when and with which outcome, and nothing of what was said.

A Globus Compute endpoint of high assurance logs the tasks that it runs. The calls of a session are no tasks: what they
do shows here alone. Two lines of JSON tell of a call at a server: one is on the disk before the server sees anything of
it, one is written when it is over there. A call without its second line was under way when the router died.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Inference, Receiver, Request
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


class Record:
    """A call at a server, in the log. `open` has the server see it as soon as its first line is on the disk."""

    def __init__(self, log: AuditLog, entry: Entry) -> None:
        self.entry = entry
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._opening: _Opening | None = None

    def open(self, inference: Inference, request: Request, receiver: Receiver, credit: int) -> Call:
        """Opens the call, which fails as OVERLOADED if its line cannot be written: see `Inference.open`."""
        self._opening = _Opening(inference, request, receiver, credit)
        return self._opening

    def end(self, outcome: str, status: int) -> None:
        """Writes what became of it, and its HTTP status, 0 if it had none."""
        self._log.end(self.entry, outcome, status)

    def written(self, problem: str) -> None:
        """The first line is on the disk, or there is a problem; told by the writer's thread."""
        self._loop.call_soon_threadsafe(self._go, problem)

    def _go(self, problem: str) -> None:
        if self._opening is not None:
            self._opening.go(problem)


class _Opening:
    """A call that is opened when its line has been written."""

    def __init__(self, inference: Inference, request: Request, receiver: Receiver, credit: int) -> None:
        self._inference = inference
        self._request = request
        self._receiver = receiver
        self._credit = credit
        self._call: Call | None = None
        self._left = False

    def go(self, problem: str) -> None:
        if self._left:
            return
        if problem:
            self._receiver.fail(_refused(problem))
        else:
            self._call = self._inference.open(self._request, self._receiver, self._credit)

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        if self._call is not None:
            self._call.grant(credit)
        else:
            self._credit += credit

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._left = True
        if self._call is not None:
            self._call.cancel()


class AuditLog:
    """Appends to a file that its owner alone may read; a thread of its own waits for the disk."""

    def __init__(self, file: Path, *, now: Callable[[], datetime.datetime] | None = None) -> None:
        self._file = file
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        self._lines: queue.SimpleQueue[tuple[bytes, Record | None] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._broken = ""

    def begin(self, request: Request, *, caller: str, model: str, server: Server) -> Record:
        """Writes that a call goes to a server.

        Raises OVERLOADED where it cannot be written: then it must not go.
        """
        if self._broken:
            raise _refused(self._broken)
        if self._lines.qsize() >= _WAITING:
            raise _refused("the audit log does not keep up; try again shortly", retry_after=1.0)
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
        record = Record(self, entry)
        self._put(entry, record)
        return record

    def end(self, entry: Entry, outcome: str, status: int) -> None:
        """Writes what became of the call with this first line."""
        self._put(msgspec.structs.replace(entry, time=self._stamp(), event="end", outcome=outcome, status=status))

    def close(self) -> None:
        """Writes what waits, and returns when it is on the disk."""
        if self._writer is not None:
            self._lines.put(None)
            self._writer.join()
            self._writer = None

    def _stamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds")

    def _put(self, entry: Entry, record: Record | None = None) -> None:
        self._lines.put((msgspec.json.encode(entry) + b"\n", record))

    def _start(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refused(f"{self._file} cannot be written: {error.strerror}") from error
        self._writer = threading.Thread(target=self._write, args=(descriptor,), name="audit log", daemon=True)
        self._writer.start()

    def _write(self, descriptor: int) -> None:
        over = False
        while not over:
            taken = [self._lines.get()]
            while not self._lines.empty():
                taken.append(self._lines.get_nowait())
            over = None in taken
            self._write_lines(descriptor, [line for line in taken if line is not None])
        os.close(descriptor)

    def _write_lines(self, descriptor: int, lines: Sequence[tuple[bytes, Record | None]]) -> None:
        if not self._broken:
            self._append(descriptor, b"".join(line for line, _ in lines))
        for _, record in lines:
            if record is not None:
                record.written(self._broken)

    def _append(self, descriptor: int, text: bytes) -> None:
        try:
            while text:
                text = text[os.write(descriptor, text) :]
            os.fsync(descriptor)
        except OSError as error:  # a full disk: nothing goes out any more
            self._broken = f"{self._file} cannot be written: {error.strerror}; make room and restart the router"


def _refused(why: str, retry_after: float | None = None) -> ServiceError:
    return ServiceError(Reason.OVERLOADED, f"Calls to this endpoint are audited, and {why}.", retry_after=retry_after)
