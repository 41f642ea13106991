"""Usage records on the disk, until auth has them.

A folder of segments, which are files of JSON lines. One is written, all are read, oldest first; what auth has
acknowledged is deleted. Each router has a folder of its own, and holds its lock: two routers in one home do not touch
each other's records, and whoever finds the folder of a dead one takes them over.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from services.router.usage_log import CallRecord
from services.router.usage_metrics import DROPPED, SPOOL_BYTES

log = logging.getLogger(__name__)

_MOST_FOLDERS: Final = 64
_SUFFIX: Final = ".jsonl"
_READ_BYTES: Final = 4 * 1024 * 1024

_decoder: Final = msgspec.json.Decoder(CallRecord)


@dataclass(slots=True, eq=False)
class _Segment:
    """A file, how many of its bytes are good, and how many of these auth has."""

    file: Path
    size: int
    done: int = 0


class Batch(NamedTuple):
    """Records to send, and where they end."""

    records: list[CallRecord]
    segment: _Segment
    end: int
    torn: int


class UsageSpool:
    """Keeps at most `most_bytes`; beyond, the oldest segments are dropped, loudly. Every method blocks, and may be
    called from any thread.
    """

    def __init__(self, home: Path, *, most_bytes: int, segment_bytes: int = 4 * 1024 * 1024) -> None:
        """Takes the first folder in `home` that no router has. Raises OSError."""
        self._home = home
        self._most_bytes = most_bytes
        self._segment_bytes = max(1, min(segment_bytes, most_bytes // 4))
        self._mutex = threading.Lock()
        self._folder, self._lock = _take(home)
        self._segments = [_Segment(file, file.stat().st_size) for file in _files(self._folder)]
        self._open: int | None = None
        self._encoder = msgspec.json.Encoder()
        self._tell_size()

    def append(self, records: Sequence[CallRecord]) -> None:
        """Writes them; when this returns they are on the disk. Raises OSError, and then none of them is."""
        text = b"".join(self._encoder.encode(_printable(record)) + b"\n" for record in records)
        with self._mutex:
            self._make_room(len(text))
            if self._open is None:
                self._begin_segment()
            assert self._open is not None
            segment, left = self._segments[-1], text
            try:
                while left:
                    left = left[os.write(self._open, left) :]
                os.fsync(self._open)
            except OSError:
                self._end_segment()
                os.truncate(segment.file, segment.size)  # no record twice, and no half of one
                raise
            segment.size += len(text)
            if segment.size >= self._segment_bytes:
                self._end_segment()
            self._tell_size()

    def next(self, most: int) -> Batch | None:
        """The oldest records that auth does not have; None if it has all."""
        with self._mutex:
            for segment in tuple(self._segments):
                if segment.done < segment.size:
                    return self._read(segment, most)
                self._delete(segment)
            return None

    def done(self, batch: Batch) -> None:
        """Auth has them."""
        with self._mutex:
            batch.segment.done = batch.end
            if batch.torn:
                DROPPED.labels("torn").inc(batch.torn)
                log.warning("%d usage records were cut off when they were written, and are lost", batch.torn)
            if batch.end >= batch.segment.size and batch.segment in self._segments:
                self._delete(batch.segment)
            self._tell_size()

    def adopt(self) -> None:
        """Takes over what routers that are dead have left."""
        for folder in _folders(self._home):
            if folder == self._folder or not (files := _files(folder)) or (lock := _lock(folder)) is None:
                continue
            try:
                with self._mutex:
                    sizes = [file.stat().st_size for file in files]
                    taken = [
                        _Segment(file.rename(self._folder / _name()), size)
                        for file, size in zip(files, sizes, strict=True)
                    ]
                    self._segments[:0] = taken
                    self._tell_size()
                log.info("took over the usage records in %s", folder)
            finally:
                os.close(lock)

    def close(self) -> None:
        """Lets the folder go."""
        with self._mutex:
            self._end_segment()
            os.close(self._lock)

    def _read(self, segment: _Segment, most: int) -> Batch:
        with segment.file.open("rb") as file:
            file.seek(segment.done)
            text = file.read(min(_READ_BYTES, segment.size - segment.done))
        records: list[CallRecord] = []
        end, torn = segment.done, 0
        for line in text.splitlines(keepends=True):
            whole = line.endswith(b"\n")
            if len(records) == most or (not whole and end + len(line) < segment.size and len(text) > len(line)):
                break  # the rest of this line is in the next piece
            end += len(line)
            try:
                records.append(_decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                torn += 1
        return Batch(records, segment, end, torn)

    def _make_room(self, size: int) -> None:
        """Drops the oldest segments until `size` bytes more are within the bound."""
        while self._segments and sum(segment.size for segment in self._segments) + size > self._most_bytes:
            oldest = self._segments[0]
            try:
                lost = oldest.file.read_bytes()[oldest.done :].count(b"\n")
            except OSError:
                lost = 0
            DROPPED.labels("spool").inc(lost)
            log.error(
                "%d usage records are dropped unsent: auth has taken none for so long that %d bytes are full "
                "(router.usage.spool_bytes); look after auth",
                *(lost, self._most_bytes),
            )
            self._delete(oldest)

    def _begin_segment(self) -> None:
        file = self._folder / _name()
        self._open = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._segments.append(_Segment(file, 0))
        directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # else a power cut takes the whole file
        finally:
            os.close(directory)

    def _end_segment(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _delete(self, segment: _Segment) -> None:
        if self._open is not None and segment is self._segments[-1]:
            self._end_segment()
        self._segments.remove(segment)
        segment.file.unlink(missing_ok=True)

    def _tell_size(self) -> None:
        SPOOL_BYTES.set(sum(segment.size - segment.done for segment in self._segments))


def _printable(record: CallRecord) -> CallRecord:
    """As UTF-8 can hold it: a caller's JSON may hold lone surrogates."""
    texts = (record.request_id, record.model, record.operation, record.principal)
    if all(text.isascii() for text in texts):
        return record
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    return msgspec.structs.replace(record, request_id=clean[0], model=clean[1], operation=clean[2], principal=clean[3])


def _take(home: Path) -> tuple[Path, int]:
    for number in range(_MOST_FOLDERS):
        folder = home / str(number)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (lock := _lock(folder)) is not None:
            return folder, lock
    raise OSError(f"{home}: {_MOST_FOLDERS} routers hold a folder here; give some another WEFT_HOME")


def _lock(folder: Path) -> int | None:
    """The lock of a folder, None if another holds it. The kernel gives it back when its holder dies."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _folders(home: Path) -> list[Path]:
    return sorted(entry for entry in home.iterdir() if entry.is_dir() and entry.name.isdecimal())


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_SUFFIX}"))


def _name() -> str:
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}{_SUFFIX}"
