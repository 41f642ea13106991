"""The audit log of calls: complete, private, and a call that cannot be written does not go."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from services.core.catalogue import Catalogue, Cluster, Endpoint, SessionBackend
from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Receiver, Request
from services.router.audit import CallAudit, Record
from services.router.body import read_body
from services.router.dispatch import DispatchedCall
from services.router.dispatcher import Dispatcher, DispatchSettings
from services.router.policies import least_outstanding
from services.router.roster import Roster
from services.router.targets import Server
from services.runtime import audit
from services.runtime.audit import AuditLog
from tests.testing.bills import Books
from tests.testing.clock import Clock
from tests.testing.permits import permitted
from tests.testing.streams import Answer, Answerer, Served

ENDPOINT = "clusters/one/endpoints/vllm"
REQUEST = Request("/v1/completions", (("x-request-id", "r1"),), b'{"model":"m","prompt":"a secret"}')
NOW = "2026-11-21T10:30:00.000+00:00"


def begin(log: AuditLog) -> Record:
    server = Server(ENDPOINT, "i1", Answerer(), start="s1")
    return CallAudit(log, now=lambda: NOW).begin(REQUEST, caller="users/alice", model="m", server=server)


def lines(file: Path) -> list[dict[str, Any]]:
    """The lines that tell of calls, without their places in the chain."""
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["seq"] for line in told] == list(range(1, len(told) + 1))
    calls = [line for line in told if line["event"] in ("begin", "end")]
    return [{name: value for name, value in line.items() if name not in ("seq", "prev")} for line in calls]


async def test_two_lines_tell_of_a_call(tmp_path: Path) -> None:
    file = tmp_path / "router" / "audit.log"
    log = AuditLog(file)
    begin(log).end("ok", 200)
    log.close()
    first, last = lines(file)
    assert first == {
        "time": NOW,
        "event": "begin",
        "attempt": first["attempt"],
        "request_id": "r1",
        "principal": "users/alice",
        "operation": "/v1/completions",
        "model": "m",
        "endpoint": ENDPOINT,
        "instance": "i1",
        "start": "s1",
    }
    assert last == {**first, "event": "end", "outcome": "ok", "status": 200}


async def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log")
    begin(log)
    log.close()
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


async def test_a_later_log_appends(tmp_path: Path) -> None:
    for _ in range(2):
        log = AuditLog(tmp_path / "audit.log")
        begin(log)
        log.close()
    assert len(lines(tmp_path / "audit.log")) == 2


async def test_a_call_that_cannot_be_written_does_not_go(tmp_path: Path) -> None:
    (tmp_path / "audit.log").mkdir()
    with pytest.raises(ServiceError, match="cannot be written") as refusal:
        begin(AuditLog(tmp_path / "audit.log"))
    assert refusal.value.reason is Reason.OVERLOADED


async def test_a_full_disk_refuses_the_calls_that_follow() -> None:
    log = AuditLog(Path("/dev/full"), clock=lambda: 0.0)
    log.start()
    log.close()
    with pytest.raises(ServiceError, match="No space left"):
        begin(log)


async def test_a_disk_that_does_not_keep_up_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_WAITING", 0)
    with pytest.raises(ServiceError, match="does not keep up"):
        begin(AuditLog(tmp_path / "audit.log"))


class Bench:
    """A dispatcher with two servers of an endpoint that is audited, or not."""

    def __init__(self, file: Path, *, audited: bool = True) -> None:
        self.file = file
        self.log = AuditLog(file)
        clock = Clock()
        roster = Roster(settle=0, clock=clock.time)
        roster.set_catalogue(
            Catalogue.of([Cluster("clusters/one"), Endpoint(ENDPOINT, SessionBackend(), audit=audited)])
        )
        self.answerers = [Answerer(), Answerer()]
        for number, answerer in enumerate(self.answerers):
            roster.add(Server(ENDPOINT, f"i{number}", answerer, {"m": ""}, ready=True))
        settings = DispatchSettings(Bounds(10, 3, 60), max_attempts=3, wait_for_worker=0, max_waiting=2)
        self.dispatcher = Dispatcher(
            roster, least_outstanding, settings, clock, lambda call, outcome: None, CallAudit(self.log)
        )

    def call(self) -> tuple[Answer, DispatchedCall]:
        answer = Answer()
        body = read_body(REQUEST.body)
        permit = permitted(self.dispatcher.roster, REQUEST, "m", "users/alice")
        bill = Books(self.dispatcher.scheduler.time).bill(self.dispatcher.roster, REQUEST, "m")
        call = DispatchedCall(
            self.dispatcher, REQUEST, body, "m", answer, 100, permit=permit, bill=bill, caller="users/alice"
        )
        answer.opened = True
        call.next_attempt()
        return answer, call

    async def served(self, place: int) -> Served:
        """The call at a server, as soon as that has seen it."""
        await self.answerers[place].arrived.wait()
        return self.answerers[place].calls[0]

    def written(self) -> list[tuple[str, str, str, int]]:
        self.log.close()
        if not self.file.exists():
            return []
        told = lines(self.file)
        return [(line["event"], line["instance"], line.get("outcome", ""), line.get("status", 0)) for line in told]


async def test_a_call_that_moves_is_told_of_at_each_server(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "audit.log")
    bench.call()
    (await bench.served(0)).receiver.fail(ServiceError(Reason.WORKER_LOST))
    served = await bench.served(1)
    served.head(200)
    served.data(b"x")
    served.receiver.end()
    assert bench.written() == [
        ("begin", "i0", "", 0),
        ("end", "i0", "worker_lost", 0),
        ("begin", "i1", "", 0),
        ("end", "i1", "ok", 200),
    ]
    assert "a secret" not in bench.file.read_text()


async def test_a_caller_who_leaves_is_told_of(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "audit.log")
    _, call = bench.call()
    call.cancel()
    assert bench.written()[1:] == [("end", "i0", "cancelled", 0)]


async def test_other_endpoints_are_not_audited(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "audit.log", audited=False)
    bench.call()[1].cancel()
    assert bench.written() == []


async def test_no_server_sees_a_call_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "audit.log").mkdir()
    bench = Bench(tmp_path / "audit.log")
    answer, _ = bench.call()
    assert [error.reason for error in answer.ends if error] == [Reason.OVERLOADED]
    assert [answerer.calls for answerer in bench.answerers] == [[], []]


class Watching(Answerer):
    """A server that looks what the log says when it sees a call."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.saw: list[dict[str, Any]] = []

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        self.saw = lines(self.file)
        return super().open(request, receiver, credit)


async def test_the_line_is_on_the_disk_before_a_server_sees_the_call(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "audit.log")
    watching = Watching(bench.file)
    bench.dispatcher.roster.servers[0].inference = watching
    _, call = bench.call()
    call.grant(50)
    await watching.arrived.wait()
    assert [line["event"] for line in watching.saw] == ["begin"]
    assert watching.calls[0].credit == 150, "what was granted meanwhile is the server's"
    call.cancel()
    assert watching.calls[0].cancelled


async def test_a_caller_who_leaves_before_the_line_is_written_reaches_no_server(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "audit.log")
    _, call = bench.call()
    call.cancel()
    assert bench.written()[1:] == [("end", "i0", "cancelled", 0)]
    await asyncio.sleep(0)
    assert bench.answerers[0].calls == []


async def test_no_server_sees_a_call_whose_line_does_not_reach_the_disk() -> None:
    bench = Bench(Path("/dev/full"))
    answer, _ = bench.call()
    await answer.over.wait()
    assert (answer.reason, str(answer.error)) == (
        Reason.OVERLOADED,
        "Calls to this endpoint are audited, and /dev/full cannot be written: No space left on device; "
        "make room there, it is tried anew each second.",
    )
    assert [answerer.calls for answerer in bench.answerers] == [[], []]
    bench.log.close()
