"""The latest spans of each process, in files of the home, for `weft trace`.

A process writes `traces/NAME-PID.jsonl`, a span a line; a full file becomes `NAME-PID.1.jsonl` in the place of the one
before. Files can be read while they are written, and outlive their process until others need the room.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from services.core.tracing import Span
from services.runtime.telemetry.batcher import ExportError

FILE: Final = 2 << 20
"""Bytes of a file, of which each process has two at most."""
TOTAL: Final = 32 << 20
"""Bytes of all files, beyond which those of processes that have ended go, the oldest first."""

_NAME = re.compile(r"[a-z0-9-]+-(\d+)(\.1)?\.jsonl")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Span).decode


def folder(home: Path) -> Path:
    """Where a home's traces are."""
    return home / "traces"


class TraceFiles:
    """The files of this process. A span may hold what callers write, so they are readable by their owner alone."""

    def __init__(self, home: Path, process: str, *, file_bytes: int = FILE, total_bytes: int = TOTAL) -> None:
        self._folder = folder(home)
        self._path = self._folder / f"{process}-{os.getpid()}.jsonl"
        self._file_bytes = file_bytes
        self._total_bytes = total_bytes
        self._file: BinaryIO | None = None

    def export(self, spans: Sequence[Span]) -> None:
        """See `Exporter`."""
        lines = b"".join(_encode(span) + b"\n" for span in spans)
        try:
            file = self._file or self._open()
            if file.tell() and file.tell() + len(lines) > self._file_bytes:
                file = self._rotate()
            file.write(lines)
            file.flush()
        except OSError as error:
            self.close()
            raise ExportError(
                f"{self._path} cannot be written: {error.strerror}", "make room, or set 'tracing.local' to false"
            ) from error

    def close(self) -> None:
        """See `Exporter`."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _prune(self._folder, self._total_bytes)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = open(descriptor, "ab")  # noqa: SIM115 - it stays open
        return self._file

    def _rotate(self) -> BinaryIO:
        self.close()
        self._path.replace(self._path.with_suffix(".1.jsonl"))
        return self._open()


def read(home: Path) -> Iterator[Span]:
    """All spans that are kept, in no order; some may come twice, where a file is moved meanwhile. Lines that are no
    spans are left out: the last of a process that was killed, or another version's.
    """
    for path in _files(folder(home)):
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                yield _decode(line)
            except msgspec.MsgspecError:
                continue


def _files(where: Path) -> list[Path]:
    return sorted(path for path in where.glob("*.jsonl") if _NAME.fullmatch(path.name))


def _prune(where: Path, total_bytes: int) -> None:
    """Other processes may do the same at the same time."""
    found: list[tuple[float, int, Path]] = []
    for path in _files(where):
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue
        found.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= total_bytes:
            return
        if not _lives(path):
            path.unlink(missing_ok=True)
            total -= size


def _lives(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    try:
        os.kill(int(match[1]) if match else 0, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it lives, and is somebody else's
    return True
