"""The file of an audit log: appended to, chained, rotated, taken up again after a crash.

Beside `audit.log` lies `audit.log.head`: number and hash of the last line that is on the disk. It tells when lines are
gone from the end, carries the chain over to a new file when the old one was moved away, and its lock keeps a second
process out of the chain.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from services.runtime.audit_chain import GENESIS, Position, chain, head_from_bytes, head_to_bytes, parse

HEAD_SUFFIX: Final = ".head"
_TAIL: Final = 1024 * 1024
_MOST_LOGS: Final = 16
"""Processes that may write audit logs of the same name in one home."""


class Recovered(msgspec.Struct, frozen=True):
    """Said where a log goes on after bytes that are no line, cut off by a crash, or where its end was gone."""

    time: str
    event: str = "recovered"
    torn: int = 0
    """Bytes that are no line, directly before this one."""
    missing: int = 0
    """Lines that were on the disk, and are in this file no longer."""


class _End(NamedTuple):
    """How a file ends: after its last line, with so many bytes that are none, the last of them a newline or not."""

    last: Position | None
    torn: int
    newline: bool


class AuditFile:
    """Blocks, and belongs to one thread. After an OSError nothing is open, and the next `append` opens anew."""

    def __init__(self, file: Path, *, rotate_bytes: int, now: Callable[[], str]) -> None:
        self.file = file
        self._wanted = file
        self._rotate_bytes = rotate_bytes
        self._now = now
        self._descriptor: int | None = None
        self._head: int | None = None
        self._position = GENESIS

    def append(self, bodies: Sequence[bytes]) -> None:
        """Writes JSON objects, each a line; when this returns they are on the disk. Raises OSError, and then none is
        to be relied on.
        """
        if self._descriptor is not None and self._moved():
            self._close_log()
        self.open()
        descriptor, position, lines = self._opened(), self._position, list[bytes]()
        for body in bodies:
            line, position = chain(body, position)
            lines.append(line)
        self._write(descriptor, b"".join(line + b"\n" for line in lines))
        self._position = position
        self._write_head()
        if self._rotate_bytes and self._size(descriptor) >= self._rotate_bytes:
            self._rotate()

    def open(self) -> None:
        """Opens the log, if it is not open, and finds where its chain goes on. Raises OSError."""
        if self._descriptor is not None:
            return
        self._wanted.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._head is None:
            self._take_head()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        existed = self.file.exists()
        self._descriptor = os.open(self.file, flags, 0o600)
        if self._is_file(self._descriptor):
            os.fchmod(self._descriptor, 0o600)  # logrotate may have made it, for all to read
            if not existed:
                _sync_folder(self.file.parent)
            self._go_on(self._descriptor)

    def close(self) -> None:
        """Lets the log go."""
        self._close_log()
        if self._head is not None:
            os.close(self._head)
            self._head = None

    def _take_head(self) -> None:
        """The first name that no other process writes to: `audit.log`, `audit-2.log`, …"""
        if self._wanted.exists() and not self._wanted.is_file():
            return  # a device or a pipe keeps no chain
        for number in range(1, _MOST_LOGS + 1):
            name = self._wanted.name if number == 1 else f"{self._wanted.stem}-{number}{self._wanted.suffix}"
            self.file = self._wanted.with_name(name)
            head = os.open(head_file(self.file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(head, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(head)
                continue
            self._head = head
            return
        raise OSError(
            0, f"{_MOST_LOGS} processes write audit logs here; give some another WEFT_HOME", str(self._wanted)
        )

    def _go_on(self, descriptor: int) -> None:
        end = _end_of(descriptor)
        head = head_from_bytes(os.pread(self._head, 256, 0)) if self._head is not None else None
        known = (self._position, head or GENESIS, end.last or GENESIS)
        self._position = max(known, key=lambda position: position.seq)
        missing = self._position.seq - end.last.seq if end.last is not None else 0
        if end.torn or missing or not end.newline:
            body = msgspec.json.encode(Recovered(self._now(), torn=end.torn, missing=missing))
            line, self._position = chain(body, self._position)
            self._write(descriptor, (b"" if end.newline else b"\n") + line + b"\n")

    def _write(self, descriptor: int, text: bytes) -> None:
        before = self._size(descriptor)
        try:
            while text:
                text = text[os.write(descriptor, text) :]
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # else the next start finds half a line, and says so
                os.ftruncate(descriptor, before)
            self._close_log()
            raise

    def _write_head(self) -> None:
        """Not synced: after a power cut it is behind the log, and then the log counts. Never before it."""
        if self._head is not None:
            os.pwrite(self._head, head_to_bytes(self._position), 0)

    def _rotate(self) -> None:
        """Moves the full file away. The names count up: no file is renamed twice."""
        taken = [path.name.rpartition(".")[2] for path in self.file.parent.glob(f"{self.file.name}.*")]
        number = max((int(suffix) for suffix in taken if suffix.isdecimal()), default=0) + 1
        self._close_log()
        self.file.rename(self.file.with_name(f"{self.file.name}.{number}"))
        _sync_folder(self.file.parent)

    def _moved(self) -> bool:
        """Whether logrotate, or somebody, has moved the file away."""
        ours = os.fstat(self._opened())
        try:
            there = os.stat(self.file)
        except FileNotFoundError:
            return True
        return (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino)

    def _opened(self) -> int:
        assert self._descriptor is not None
        return self._descriptor

    def _close_log(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def _is_file(descriptor: int) -> bool:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)

    @staticmethod
    def _size(descriptor: int) -> int:
        return os.fstat(descriptor).st_size


def head_file(log: Path) -> Path:
    """Where the head of a log is kept."""
    return log.with_name(log.name + HEAD_SUFFIX)


def _end_of(descriptor: int) -> _End:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, _TAIL, max(0, size - _TAIL))
    newline = not text or text.endswith(b"\n")
    torn = 0
    for line in reversed(text.splitlines(keepends=True)):
        if (parsed := parse(line.rstrip(b"\n"))) is not None:
            # A whole line that lacks but its newline is a line.
            return _End(parsed.at, torn, newline)
        torn += len(line)
    return _End(None, torn, newline)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
