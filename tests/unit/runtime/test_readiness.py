"""Announcements of readiness, and what others make of them."""

import json
import os
from pathlib import Path

import pytest

from services.runtime.home import HomeInUseError, locked, run_file
from services.runtime.readiness import Announcer, Ready, running


def test_an_announcement_lasts_as_long_as_the_announcer(tmp_path: Path) -> None:
    with Announcer(tmp_path, metrics="127.0.0.1:9100") as announcer:
        announcer.ready("router", "127.0.0.1:7000")
        assert running(tmp_path, "router") == Ready("router", "127.0.0.1:7000", os.getpid(), "127.0.0.1:9100")
    assert running(tmp_path, "router") is None
    assert list((tmp_path / "run").iterdir()) == []


def test_the_parent_is_told_one_line_by_the_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with Announcer(tmp_path, ready_fd=writing) as announcer:
        announcer.ready("auth", "127.0.0.1:7002")
    with os.fdopen(reading) as pipe:
        told = json.loads(pipe.read())
    assert told == {"service": "auth", "address": "127.0.0.1:7002", "pid": os.getpid(), "metrics": "", "tls": ""}


def test_a_successors_announcement_is_left_alone(tmp_path: Path) -> None:
    successor = Ready("auth", "127.0.0.1:7002", 1).to_json()
    with Announcer(tmp_path) as announcer:
        announcer.ready("auth", "127.0.0.1:7002")
        run_file(tmp_path, "auth").write_text(successor)
    assert run_file(tmp_path, "auth").read_text() == successor


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"service": "auth"}', '{"service":"a","address":"b","pid":"x"}'])
def test_what_is_no_announcement_counts_as_none(tmp_path: Path, text: str) -> None:
    file = run_file(tmp_path, "auth")
    file.parent.mkdir()
    file.write_text(text)
    assert running(tmp_path, "auth") is None


def test_the_announcement_of_a_dead_process_counts_as_none(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    file = run_file(tmp_path, "auth")
    file.parent.mkdir()
    file.write_text(Ready("auth", "127.0.0.1:7002", child).to_json())
    assert running(tmp_path, "auth") is None


def test_a_home_is_held_by_one_and_told_by_pid(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with locked(home), pytest.raises(HomeInUseError, match=rf"\(pid {os.getpid()}\).*WEFT_HOME"), locked(home):
        pass
    with locked(home):
        pass
