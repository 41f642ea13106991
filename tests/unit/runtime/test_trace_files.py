"""The files that `weft trace` reads: bounded, readable while they are written, kept beyond their process's life."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.core.tracing import Event
from services.runtime.telemetry.batcher import ExportError
from services.runtime.telemetry.files import TraceFiles, folder, read
from tests.testing.exports import span

DEAD = 2**22 + 1
"""More than Linux gives to any process."""


def test_a_span_is_read_as_it_was_written(tmp_path: Path) -> None:
    attributes = {"text": "ä\n", "whole": 3, "part": 0.5, "yes": True, "several": ("a", "b")}
    event = Event("gen_ai.first_token", 17, {"n": 1})
    one = span(parent_id="00f067aa0ba902b7", attributes=attributes, events=(event,), error="worker_lost")
    files = TraceFiles(tmp_path, "router")
    files.export([one])
    assert list(read(tmp_path)) == [one]
    files.close()


def test_a_line_that_is_not_whole_yet_is_left_out(tmp_path: Path) -> None:
    files = TraceFiles(tmp_path, "router")
    files.export([span("whole")])
    files.close()
    path = folder(tmp_path) / f"router-{os.getpid()}.jsonl"
    path.write_bytes(path.read_bytes() + b'{"context":{"trace_id":"4bf9')
    assert [one.name for one in read(tmp_path)] == ["whole"]


def test_a_full_file_makes_room_for_the_next_and_the_latest_stay(tmp_path: Path) -> None:
    files = TraceFiles(tmp_path, "router", file_bytes=4000)
    for number in range(200):
        files.export([span(str(number))])
    files.close()
    sizes = [path.stat().st_size for path in folder(tmp_path).iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 4000
    names = {one.name for one in read(tmp_path)}
    assert {str(number) for number in range(190, 200)} <= names
    assert "0" not in names


def test_files_of_processes_that_have_ended_go_when_others_need_the_room(tmp_path: Path) -> None:
    where = folder(tmp_path)
    where.mkdir()
    for age, name in enumerate((f"facade-{os.getppid()}", f"auth-{DEAD}", f"router-{DEAD}")):
        path = where / f"{name}.jsonl"
        path.write_bytes(b"x" * 1000)
        os.utime(path, (age, age))
    (where / "notes.txt").write_text("somebody's own")
    files = TraceFiles(tmp_path, "registry", total_bytes=2000)
    files.export([span()])
    files.close()
    left = {path.name for path in where.iterdir()}
    assert left == {
        f"router-{DEAD}.jsonl",
        f"facade-{os.getppid()}.jsonl",
        f"registry-{os.getpid()}.jsonl",
        "notes.txt",
    }


def test_only_their_owner_reads_them(tmp_path: Path) -> None:
    files = TraceFiles(tmp_path, "router")
    files.export([span()])
    files.close()
    (path,) = folder(tmp_path).iterdir()
    assert (path.stat().st_mode & 0o777, folder(tmp_path).stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_disk_that_takes_nothing_is_told_with_the_remedy(tmp_path: Path) -> None:
    folder(tmp_path).write_text("not a folder")
    with pytest.raises(ExportError, match=r"make room, or set 'tracing\.local' to false"):
        TraceFiles(tmp_path, "router").export([span()])
