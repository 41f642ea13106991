"""The audit log of calls: complete, private, and a call that cannot be written does not go."""

import datetime
import json
from pathlib import Path

import pytest

from services.core.errors import Reason, ServiceError
from services.router import audit
from services.router.audit import AuditLog, Entry

NOW = datetime.datetime(2026, 11, 21, 10, 30, tzinfo=datetime.UTC)


def entry(event: str, **more: object) -> Entry:
    fields: dict[str, object] = {
        "time": "2026-11-21T10:30:00.000+00:00",
        "event": event,
        "attempt": "a1",
        "request_id": "r1",
        "principal": "users/alice",
        "operation": "/v1/chat/completions",
        "model": "m",
        "endpoint": "clusters/c/endpoints/e",
        "instance": "i",
    }
    return Entry(**{**fields, **more})  # type: ignore[arg-type]


def test_two_lines_tell_of_a_call(tmp_path: Path) -> None:
    file = tmp_path / "router" / "audit.log"
    log = AuditLog(file, now=lambda: NOW)
    log.begin(entry("begin", time=log.stamp()))
    log.end(entry("end", outcome="ok", status=200))
    log.close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["event"], line["attempt"], line["principal"]) for line in lines] == [
        ("begin", "a1", "users/alice"),
        ("end", "a1", "users/alice"),
    ]
    assert lines[0]["time"] == "2026-11-21T10:30:00.000+00:00"
    assert (lines[1]["outcome"], lines[1]["status"]) == ("ok", 200)


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    log.begin(entry("begin"))
    log.close()
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def test_a_later_log_appends(tmp_path: Path) -> None:
    for _ in range(2):
        log = AuditLog(tmp_path / "audit.log")
        log.begin(entry("begin"))
        log.close()
    assert len((tmp_path / "audit.log").read_text().splitlines()) == 2


def test_a_call_that_cannot_be_written_does_not_go(tmp_path: Path) -> None:
    (tmp_path / "audit.log").mkdir()
    log = AuditLog(tmp_path / "audit.log")
    with pytest.raises(ServiceError, match="cannot be written") as refusal:
        log.begin(entry("begin"))
    assert refusal.value.reason is Reason.OVERLOADED


def test_a_full_disk_refuses_the_calls_that_follow() -> None:
    log = AuditLog(Path("/dev/full"))
    log.begin(entry("begin"))
    log.close()
    with pytest.raises(ServiceError, match="No space left"):
        log.begin(entry("begin"))


def test_a_disk_that_does_not_keep_up_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_WAITING", 0)
    with pytest.raises(ServiceError, match="does not keep up"):
        AuditLog(tmp_path / "audit.log").begin(entry("begin"))
