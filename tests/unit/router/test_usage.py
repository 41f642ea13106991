"""Records of calls on their way: nothing is lost at an orderly stop, nothing is sent twice for two."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from weft.usage.v1 import usage_pb2, usage_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.router import usage_log
from services.router.config import UsageConfig
from services.router.usage import Usage
from services.router.usage_log import CallRecord, UsageLog
from services.router.usage_metrics import DROPPED
from services.router.usage_spool import UsageSpool
from services.rpc.channel import dial
from services.rpc.status import abort


def record(number: int, **fields: Any) -> CallRecord:
    told = {"principal": "users/ada", "model": "m", "operation": "/v1/completions", "outcome": "ok", **fields}
    return CallRecord(id=f"{number:032x}", started=1.0, ended=2.0, **told)


def dropped(why: str) -> float:
    value: float = DROPPED.labels(why)._value.get()
    return value


class Auth(usage_pb2_grpc.UsageServiceServicer):
    """Keeps what it is sent; away, or refusing what is named so, if it is told to."""

    def __init__(self) -> None:
        self.kept: dict[str, usage_pb2.CallRecord] = {}
        self.received = 0
        self.away = False
        self.asked = asyncio.Event()

    async def RecordCalls(self, request: Any, context: Any) -> usage_pb2.RecordCallsResponse:  # noqa: N802
        self.asked.set()
        if self.away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        if any(one.model == "refused" for one in request.records):
            await abort(context, ServiceError(Reason.ARGUMENT_INVALID))
        self.received += len(request.records)
        self.kept |= {one.id: one for one in request.records}
        return usage_pb2.RecordCallsResponse()


@asynccontextmanager
async def serving(auth: Auth) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    usage_pb2_grpc.add_UsageServiceServicer_to_server(auth, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with dial(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[UsageSpool]:
    opened = UsageSpool(tmp_path, most_bytes=1_000_000)
    yield opened
    opened.close()


def drain(spool: UsageSpool, most: int = 100) -> list[str]:
    """The ids of all that the spool holds, which it then no longer does."""
    ids: list[str] = []
    while (batch := spool.next(most)) is not None:
        ids += [one.id for one in batch.records]
        spool.done(batch)
    return ids


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jsonl"))


def test_what_is_spooled_comes_out_in_order_and_is_deleted_when_it_is_kept(spool: UsageSpool, tmp_path: Path) -> None:
    spool.append([record(number) for number in range(10)])
    first = spool.next(4)
    assert first is not None
    assert first.records == [record(number) for number in range(4)]
    assert spool.next(4) == first, "until it is done"
    assert drain(spool, most=4) == [record(number).id for number in range(10)]
    assert files(tmp_path) == []
    spool.append([record(10)])
    assert drain(spool) == [record(10).id], "and on"


def test_a_restart_finds_what_was_left(tmp_path: Path) -> None:
    first = UsageSpool(tmp_path, most_bytes=1_000_000)
    first.append([record(1)])
    first.close()
    second = UsageSpool(tmp_path, most_bytes=1_000_000)
    second.append([record(2)])
    assert drain(second) == [record(1).id, record(2).id]
    second.close()


def test_a_torn_last_line_is_skipped_and_counted(tmp_path: Path) -> None:
    first = UsageSpool(tmp_path, most_bytes=1_000_000)
    first.append([record(1), record(2)])
    first.close()
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    before = dropped("torn")
    second = UsageSpool(tmp_path, most_bytes=1_000_000)
    assert drain(second) == [record(1).id]
    assert dropped("torn") == before + 1
    assert files(tmp_path) == []
    second.close()


def test_bytes_that_a_disk_has_spoilt_cost_no_more_than_their_records(tmp_path: Path) -> None:
    first = UsageSpool(tmp_path, most_bytes=1_000_000)
    first.append([record(number) for number in range(3)])
    first.close()
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes().replace(b"users/ada", b"users/\xff\xff\xff", 1))
    second = UsageSpool(tmp_path, most_bytes=1_000_000)
    assert drain(second) == [record(1).id, record(2).id]
    second.close()


def test_two_routers_in_one_home_leave_each_other_alone(tmp_path: Path) -> None:
    one, two = (UsageSpool(tmp_path, most_bytes=1_000_000) for _ in range(2))
    one.append([record(1)])
    two.append([record(2)])
    one.adopt()
    assert drain(one) == [record(1).id]
    two.close()
    one.adopt()
    assert drain(one) == [record(2).id], "what a dead one left is taken over"
    one.close()


def test_beyond_its_bound_the_oldest_go(tmp_path: Path) -> None:
    before = dropped("spool")
    spool = UsageSpool(tmp_path, most_bytes=4000)
    for number in range(100):
        spool.append([record(number)])
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 4000
    left = drain(spool)
    assert left[-1] == record(99).id
    assert len(left) + dropped("spool") - before == 100
    spool.close()


def test_what_a_caller_invents_does_not_stop_the_others(spool: UsageSpool) -> None:
    spool.append([record(1, model="\ud800", request_id="\udfff"), record(2)])
    assert drain(spool) == [record(1).id, record(2).id]


def test_a_full_disk_leaves_no_half_of_a_record(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from services.router.usage_spool import UsageSpool
        from tests.unit.router.test_usage import record, drain

        spool = UsageSpool(Path(sys.argv[1]), most_bytes=1_000_000)
        spool.append([record(1)])
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
        try:
            spool.append([record(number) for number in range(2, 10)])
            raise SystemExit("it was written")
        except OSError:
            pass
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        spool.append([record(number) for number in range(2, 10)])
        spool.close()
        again = UsageSpool(Path(sys.argv[1]), most_bytes=1_000_000)
        assert drain(again) == [record(number).id for number in range(1, 10)]
        """
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=os.getcwd(), timeout=60)


async def test_what_waits_is_bounded_and_a_long_name_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeps:
        def __init__(self) -> None:
            self.records: list[CallRecord] = []

        def append(self, records: list[CallRecord]) -> None:
            self.records += records

    monkeypatch.setattr(usage_log, "MOST_WAITING", 3)
    before, keeps = dropped("memory"), Keeps()
    log = UsageLog(keeps, flush_s=1000)
    for number in range(5):
        log.record(record(number, model="m" * 10_000))
    assert dropped("memory") == before + 2
    log.start()
    await log.close()
    assert [len(one.model) for one in keeps.records] == [usage_log.LONGEST_TEXT] * 3


async def test_an_orderly_stop_loses_nothing(tmp_path: Path) -> None:
    auth = Auth()
    async with serving(auth) as channel:
        usage = Usage(UsageConfig(flush_s=1000), tmp_path, channel, lambda: "key")
        usage.start()
        for number in range(500):
            usage.record(record(number, groups=("groups/a",), first_byte=1.5))
        await usage.finish()
        await usage.close(within=20)
    assert len(auth.kept) == 500
    assert next(iter(auth.kept.values())).groups == ["groups/a"]
    assert files(tmp_path) == []


async def test_while_auth_is_away_records_wait_on_the_disk(tmp_path: Path) -> None:
    auth = Auth()
    auth.away = True
    async with serving(auth) as channel:
        first = Usage(UsageConfig(flush_s=0.01), tmp_path, channel, lambda: "key")
        first.start()
        first.record(record(1))
        await auth.asked.wait()
        await first.finish()
        await first.close(within=20)
        assert len(files(tmp_path)) == 1
        auth.away = False
        second = Usage(UsageConfig(flush_s=0.01), tmp_path, channel, lambda: "key")
        second.start()
        second.record(record(2))
        await second.finish()
        await second.close(within=20)
    assert sorted(auth.kept) == [record(1).id, record(2).id]


async def test_a_record_that_auth_refuses_does_not_hold_up_the_others(tmp_path: Path) -> None:
    auth, before = Auth(), dropped("refused")
    async with serving(auth) as channel:
        usage = Usage(UsageConfig(flush_s=1000), tmp_path, channel, lambda: "key")
        usage.start()
        for number, model in enumerate(("m", "refused", "m")):
            usage.record(record(number, model=model))
        usage.record(record(3, input_tokens=-1))  # which no message can hold
        await usage.finish()
        await usage.close(within=20)
    assert sorted(auth.kept) == [record(0).id, record(2).id]
    assert dropped("refused") == before + 2
    assert files(tmp_path) == []


def test_a_kill_loses_no_more_than_was_not_yet_written(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, threading
        from pathlib import Path
        from services.router.usage_log import UsageLog
        from services.router.usage_spool import UsageSpool
        from tests.unit.router.test_usage import record

        written = threading.Event()
        spool = UsageSpool(Path(sys.argv[1]), most_bytes=1_000_000)
        log = UsageLog(spool, flush_s=1000, flush_records=50, written=written.set)
        log.start()
        for number in range(50):
            log.record(record(number))
        written.wait()
        for number in range(50, 60):
            log.record(record(number))
        print("here", flush=True)
        threading.Event().wait()
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=os.getcwd()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    spool = UsageSpool(tmp_path, most_bytes=1_000_000)
    assert drain(spool) == [record(number).id for number in range(50)]
    spool.close()
