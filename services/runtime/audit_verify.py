"""Looks whether audit logs are as they were written: the chain from file to file, and its end by the head."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from services.runtime.audit_chain import GENESIS, Line, Position, head_from_bytes, parse
from services.runtime.audit_file import HEAD_SUFFIX, head_file

_LOG: Final = re.compile(r"(.*\.log)(?:[.-][0-9][^/]*)?(?:\.gz)?")


class Finding(NamedTuple):
    """What is wrong. `kind` is one of `changed`, `missing`, `repeated`, `unreadable`, `truncated`, `unknown head`."""

    kind: str
    place: str
    message: str


@dataclass(slots=True)
class Verdict:
    """What was found of one log. `notes` are worth knowing, and no damage."""

    log: Path
    lines: int = 0
    last: Position = GENESIS
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def logs_in(home: Path) -> list[Path]:
    """The audit logs of a home, each by the file that is written now."""
    found = {head.with_name(head.name.removesuffix(HEAD_SUFFIX)) for head in home.glob(f"*/*.log{HEAD_SUFFIX}")}
    return sorted(found | set(home.glob("*/audit*.log")))


def log_of(file: Path) -> Path:
    """The log that a file belongs to: `audit.log` of `audit.log.3`, `audit.log-20261121.gz`."""
    match = _LOG.fullmatch(file.name)
    return file.with_name(match[1]) if match else file


def files_of(log: Path) -> list[Path]:
    """The files of a log that are there, rotated ones too, in any order."""
    return [file for file in log.parent.iterdir() if file.is_file() and log_of(file) == log and _is_log(file)]


def verify(log: Path, files: Sequence[Path], *, archived: bool = False) -> Verdict:
    """Looks through the files of one log. With `archived`, what is older than these files is elsewhere, and not
    missed. Raises OSError.
    """
    verdict = Verdict(log)
    head = read_head(log)  # before the lines: the log goes on meanwhile
    at_head: str | None = None
    previous = GENESIS
    for file in _in_order(files):
        for place, found in _lines(file, verdict):
            _check(verdict, place, found, previous, first=verdict.lines == 0, archived=archived)
            verdict.lines += 1
            previous = verdict.last = found.at
            if head is not None and found.at.seq == head.seq:
                at_head = found.at.hash
    if set(files) >= set(files_of(log)):
        _check_end(verdict, head, at_head)
    return verdict


def read_head(log: Path) -> Position | None:
    """The head that is kept beside a log; None if there is none."""
    with suppress(FileNotFoundError):
        return head_from_bytes(head_file(log).read_bytes())
    return None


def read(files: Iterable[Path]) -> Iterator[Line]:
    """All lines of a log that can be read, in their order."""
    ignored = Verdict(Path())
    for file in _in_order(files):
        for _, line in _lines(file, ignored):
            yield line


def _check(verdict: Verdict, place: str, line: Line, previous: Position, *, first: bool, archived: bool) -> None:
    seq = line.at.seq
    if first and seq > 1:
        if archived:
            verdict.notes.append(f"begins with line {seq}; what is older was said to be elsewhere")
            return
        message = f"lines 1 to {seq - 1} are missing; if they were moved elsewhere, say --archived"
        verdict.findings.append(Finding("missing", place, message))
    elif seq > previous.seq + 1:
        gone = f"line {seq - 1} is" if seq == previous.seq + 2 else f"lines {previous.seq + 1} to {seq - 1} are"
        verdict.findings.append(Finding("missing", place, f"{gone} missing before line {seq}"))
    elif seq <= previous.seq:
        message = f"line {seq} stands behind line {previous.seq}: it was inserted, repeated or moved"
        verdict.findings.append(Finding("repeated", place, message))
    elif line.prev != previous.hash:
        message = (
            f"line {previous.seq} is not the one that line {seq} was chained to: it was changed, or line {seq} was"
            if previous.seq
            else f"line {seq} is not the first of a log, as it says"
        )
        verdict.findings.append(Finding("changed", place, message))


def _check_end(verdict: Verdict, head: Position | None, at_head: str | None) -> None:
    log = str(verdict.log)
    if head is None:
        verdict.findings.append(
            Finding("unknown head", log, f"{head_file(verdict.log)} is gone or cannot be read: the end is not certain")
        )
    elif head.seq > verdict.last.seq:
        message = f"the log ends with line {verdict.last.seq}, and line {head.seq} was on the disk: the end is cut off"
        verdict.findings.append(Finding("truncated", log, message))
    elif at_head is not None and at_head != head.hash:
        message = f"line {head.seq} is not the one that the head tells of: it was changed"
        verdict.findings.append(Finding("changed", log, message))


def _in_order(files: Iterable[Path]) -> list[Path]:
    """By the number of their first line, whatever their names: logrotate and we name them differently."""
    first: list[tuple[int, Path]] = []
    for file in files:
        ignored = Verdict(file)
        found = next(_lines(file, ignored), None)
        if found is not None or ignored.findings:
            first.append((found[1].at.seq if found is not None else 0, file))
    return [file for _, file in sorted(first)]


def _lines(file: Path, verdict: Verdict) -> Iterator[tuple[str, Line]]:
    """The lines of a file, each with its place; others become findings, but for what a crash has cut off, which the
    line behind it tells of.
    """
    torn: list[tuple[int, bytes]] = []
    last = b"\n"
    with _open(file) as text:
        for number, last in enumerate(text, 1):
            line = parse(last.rstrip(b"\n"))
            if line is None:
                torn.append((number, last.rstrip(b"\n")))
                continue
            # As many bytes as the writer found there, without the newline that it put behind them.
            size = sum(len(piece) for _, piece in torn) + len(torn) - 1
            if torn and line.said.get("event") == "recovered" and line.said.get("torn") == size:
                verdict.notes.append(f"{file}:{torn[0][0]}: cut off by a crash, and told of by the next line")
                torn.clear()
            _unreadable(file, torn, verdict)
            yield f"{file}:{number}", line
    if torn and not last.endswith(b"\n"):
        verdict.notes.append(f"{file}:{torn[-1][0]}: the last line is half written: by a crash, or just now")
        torn.pop()
    _unreadable(file, torn, verdict)


def _unreadable(file: Path, torn: list[tuple[int, bytes]], verdict: Verdict) -> None:
    for number, _ in torn:
        verdict.findings.append(Finding("unreadable", f"{file}:{number}", "this is no line of an audit log"))
    torn.clear()


def _open(file: Path) -> BinaryIO:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _is_log(file: Path) -> bool:
    return not file.name.endswith(HEAD_SUFFIX)
