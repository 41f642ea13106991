"""The audit log as a whole: chained, taken up again, rotated, and every kind of damage found, where it is."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.runtime.audit import AuditLog
from services.runtime.audit_file import head_file
from services.runtime.audit_verify import Verdict, files_of, log_of, logs_in, read_head, verify


class Said(msgspec.Struct, frozen=True):
    time: str
    event: str
    principal: str


def said(number: int) -> Said:
    return Said("2026-11-21T10:00:00.000+00:00", "test", f"users/u{number}")


def write(file: Path, *numbers: int, rotate_bytes: int = 0, close: bool = True) -> AuditLog:
    """A run of a process that writes these, each on the disk before the next."""
    log = AuditLog(file, rotate_bytes=rotate_bytes)

    async def run() -> None:
        for number in numbers:
            assert await log.commit(said(number)) == ""

    asyncio.run(run())
    if close:
        log.close()
    return log


def look(file: Path, **how: Any) -> Verdict:
    return verify(file, files_of(file), **how)


def kinds(verdict: Verdict) -> list[tuple[str, str]]:
    """What was found, and in which line of which file."""
    return [(finding.kind, Path(finding.place).name) for finding in verdict.findings]


def events(file: Path) -> list[str]:
    return [json.loads(line)["event"] for line in file.read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A log of five lines: opened, three that say something, closed."""
    log = tmp_path / "auth" / "audit.log"
    write(log, 1, 2, 3)
    return log


def edit(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))


def test_a_log_that_nobody_touched_is_sound(file: Path) -> None:
    verdict = look(file)
    assert (verdict.findings, verdict.notes, verdict.lines) == ([], [], 5)
    assert events(file) == ["opened", "test", "test", "test", "closed"]
    assert verdict.last == read_head(file)
    assert [path.stat().st_mode & 0o777 for path in (file, head_file(file))] == [0o600, 0o600]
    assert logs_in(file.parents[1]) == [file]


def test_a_later_process_goes_on_with_the_chain(file: Path) -> None:
    write(file, 4)
    verdict = look(file)
    assert (verdict.findings, verdict.lines) == ([], 8)


def test_a_changed_line_is_found_where_it_stands(file: Path) -> None:
    edit(file, lambda lines: [line.replace("users/u2", "users/u9") for line in lines])
    assert kinds(look(file)) == [("changed", "audit.log:4")], "the line behind it no longer fits"


def test_a_changed_last_line_is_found_by_the_head(file: Path) -> None:
    edit(file, lambda lines: [*lines[:-1], lines[-1].replace("closed", "opened")])
    assert kinds(look(file)) == [("changed", "audit.log")]


def test_deleted_lines_are_found(file: Path) -> None:
    edit(file, lambda lines: [*lines[:1], *lines[3:]])
    (finding,) = look(file).findings
    assert (finding.kind, Path(finding.place).name) == ("missing", "audit.log:2")
    assert finding.message == "lines 2 to 3 are missing before line 4"


def test_a_deleted_beginning_is_found_unless_it_is_elsewhere(file: Path) -> None:
    edit(file, lambda lines: lines[2:])
    assert kinds(look(file)) == [("missing", "audit.log:1")]
    assert look(file, archived=True).findings == []


def test_a_cut_off_end_is_found(file: Path) -> None:
    edit(file, lambda lines: lines[:3])
    (finding,) = look(file).findings
    assert (finding.kind, finding.message) == (
        "truncated",
        "the log ends with line 3, and line 5 was on the disk: the end is cut off",
    )
    write(file, 4)
    found = look(file).findings
    assert [finding.kind for finding in found] == ["missing"], "what is written later does not heal it"


def test_lines_in_another_order_are_found(file: Path) -> None:
    edit(file, lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])
    assert {kind for kind, _ in kinds(look(file))} == {"missing", "repeated"}


def test_a_line_twice_and_a_line_that_is_none(file: Path) -> None:
    edit(file, lambda lines: [*lines[:2], lines[1], "nonsense\n", *lines[2:]])
    assert kinds(look(file)) == [("repeated", "audit.log:3"), ("unreadable", "audit.log:4")]


def test_a_deleted_log_is_found(file: Path) -> None:
    file.unlink()
    assert kinds(look(file)) == [("truncated", "audit.log")]


def test_a_lost_head_is_told_of(file: Path) -> None:
    head_file(file).unlink()
    assert kinds(look(file)) == [("unknown head", "audit.log")]


def test_a_torn_last_line_is_told_of_and_harmless(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"seq":6,"prev":"00')
    assert look(file).findings == [], "a crash is no tampering"
    write(file, 4)
    verdict = look(file)
    assert verdict.findings == []
    assert any("cut off by a crash" in note for note in verdict.notes)
    assert "recovered" in file.read_text()


def test_what_a_recovered_line_does_not_tell_of_is_found(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b'{"seq":6,"prev":"00')
    write(file, 4)
    text = file.read_bytes().replace(b'{"seq":6,"prev":"00\n', b'{"seq":6,"prev":"00 longer\n')
    file.write_bytes(text)
    assert [kind for kind, _ in kinds(look(file))] == ["unreadable"]


def test_a_whole_line_without_its_newline_is_a_line(file: Path) -> None:
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))
    write(file, 4)
    assert look(file).findings == []


def test_a_head_behind_the_log_is_no_damage(file: Path) -> None:
    """As after a power cut: the log is synced, the head is not."""
    old = head_file(file).read_bytes()
    write(file, 4)
    head_file(file).write_bytes(old)
    assert look(file).findings == []
    write(file, 5)
    assert look(file).findings == []


def test_the_chain_goes_on_across_rotated_files(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    write(log, *range(20), rotate_bytes=1000)
    assert len(files_of(log)) > 3
    assert (look(log).findings, look(log).lines) == ([], 22)
    second = log.with_name("audit.log.2")
    assert log_of(second) == log
    with gzip.open(f"{second}.gz", "wb") as packed:
        packed.write(second.read_bytes())
    second.unlink()
    assert look(log).findings == [], "packed ones are read too"
    Path(f"{second}.gz").unlink()
    assert [finding.kind for finding in look(log).findings] == ["missing"]


def test_a_file_that_logrotate_moved_is_left_and_a_new_one_begun(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    log = write(file, 1, close=False)
    file.rename(tmp_path / "audit.log-20261121")
    file.touch(0o644)  # logrotate's `create`

    async def more() -> None:
        assert await log.commit(said(2)) == ""

    asyncio.run(more())
    log.close()
    assert events(file) == ["test", "closed"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert (look(file).findings, look(file).lines) == ([], 4)


def test_two_processes_do_not_write_one_chain(tmp_path: Path) -> None:
    first = write(tmp_path / "auth" / "audit.log", 1, close=False)
    second = write(tmp_path / "auth" / "audit.log", 2, close=False)
    assert (first.file.name, second.file.name) == ("audit.log", "audit-2.log")
    first.close()
    second.close()
    assert [look(log).findings for log in (first.file, second.file)] == [[], []]
    assert logs_in(tmp_path) == sorted((second.file, first.file))


async def test_many_at_once_are_all_on_the_disk_when_they_are_told_so(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    assert set(await asyncio.gather(*(log.commit(said(number)) for number in range(200)))) == {""}
    assert len(events(log.file)) == 201, "before it is closed"
    log.close()
    assert look(log.file).findings == []


def test_a_full_disk_refuses_until_there_is_room_again(tmp_path: Path) -> None:
    """With a bound on the size of files, in a process of its own."""
    program = textwrap.dedent(
        """
        import asyncio, resource, sys
        from pathlib import Path
        from services.runtime.audit import AuditLog
        from tests.unit.runtime.test_audit_log import said

        async def main():
            log = AuditLog(Path(sys.argv[1]), rotate_bytes=0)
            assert await log.commit(said(1)) == ""
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (log.file.stat().st_size + 60, hard))
            problem = await log.commit(said(2))
            assert "cannot be written: File too large" in problem, problem
            log.append(said(3))  # nobody waits for it: it is kept
            assert await log.commit(said(4)) != ""
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert await log.commit(said(5)) == ""
            log.close()

        asyncio.run(main())
        """
    )
    file = tmp_path / "audit.log"
    subprocess.run([sys.executable, "-c", program, str(file)], check=True, cwd=os.getcwd(), timeout=60)
    told = [json.loads(line).get("principal") for line in file.read_text().splitlines()]
    assert told == [None, "users/u1", "users/u3", "users/u5", None], "what was refused does not stand there"
    verdict = look(file)
    assert (verdict.findings, verdict.notes) == ([], [])
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_what_comes_while_it_is_closed_has_one_writer(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    log.start()
    asked, over = threading.Event(), threading.Event()

    def go_on() -> None:
        while not over.is_set():
            log.append(said(1))
            asked.set()

    going = threading.Thread(target=go_on)
    going.start()
    asked.wait()
    log.close()
    over.set()
    going.join()
    log.close()
    assert log.problem == ""
    assert kinds(look(tmp_path / "audit.log")) == []
