"""Records of calls, from a client's call to auth's database, and what people see of them and of the audit logs."""

import asyncio
import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from weft.auth.v1 import auth_pb2
from weft.usage.v1 import usage_pb2, usage_pb2_grpc

from services.rpc.channel import bearer, dial
from tests.testing.mesh import Mesh, StartMesh

BODY = {"model": "sim-model", "max_tokens": 4, "messages": [{"role": "user", "content": "a secret"}]}


def weft(mesh: Mesh, *arguments: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **mesh.environ, **({"WEFT_API_KEY": key} if key else {})}
    command = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


async def call(mesh: Mesh, times: int, key: str | None = None, **fields: Any) -> list[int]:
    """So many calls, at most 50 at once; their statuses."""
    some = asyncio.Semaphore(50)
    headers = {"Authorization": f"Bearer {key or mesh.key}"}

    async with aiohttp.ClientSession(headers=headers) as session:

        async def one() -> int:
            async with some, session.post(f"{mesh.url}/v1/chat/completions", json={**BODY, **fields}) as answer:
                await answer.read()
                return answer.status

        return list(await asyncio.gather(*(one() for _ in range(times))))


async def kept(mesh: Mesh, key: str | None = None, **chosen: Any) -> usage_pb2.UsageRow:
    """The sum of what auth has; zeros while it is away."""
    async with dial(mesh.address("auth")) as channel:
        request = usage_pb2.SumUsageRequest(filter=usage_pb2.CallFilter(**chosen))
        try:
            answer = await usage_pb2_grpc.UsageServiceStub(channel).SumUsage(
                request, metadata=bearer(key or mesh.key), timeout=20
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return usage_pb2.UsageRow()
    return answer.rows[0] if answer.rows else usage_pb2.UsageRow()


async def test_five_hundred_calls_then_an_orderly_stop_are_five_hundred_records(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(router={"usage": {"flush_s": 60, "flush_records": 100_000}})
    assert await call(mesh, 500) == [200] * 500
    assert await mesh.router.terminate() == 0
    row = await kept(mesh)
    assert (row.calls, row.failed_calls) == (500, 0)
    assert row.output_tokens == 2000
    assert row.input_tokens > 0


async def test_while_auth_is_away_nothing_is_lost(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(router={"usage": {"flush_s": 0.05}})

    async def spooled() -> int:
        lines = 0
        for file in (mesh.home / "router/usage").rglob("*.jsonl"):
            with contextlib.suppress(FileNotFoundError):  # auth has taken it
                lines += file.read_bytes().count(b"\n")
        return lines

    assert await call(mesh, 5) == [200] * 5
    # Else some of these would be counted below in the place of later ones, which the kill would take.
    await mesh.until(lambda: kept(mesh), lambda row: row.calls == 5, "the first records are in auth")
    await mesh.until(spooled, lambda lines: lines == 0, "the first records are no longer on the disk")
    await mesh.auth.terminate()
    assert await call(mesh, 20) == [200] * 20, "known callers stay known"
    await mesh.until(spooled, lambda lines: lines >= 20, "the records are on the disk")
    await mesh.router.kill()
    await mesh.auth.start()
    await mesh.router.start()
    await mesh.until(
        lambda: kept(mesh), lambda row: row.calls == 25, "records from before the kill are in auth", seconds=60
    )


async def test_what_people_see(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(router={"usage": {"flush_s": 0.05}})
    key = await mesh.create_key()
    assert await call(mesh, 2) == [200] * 2
    assert await call(mesh, 3, key) == [200] * 3
    assert await call(mesh, 1, key, model="=cmd()") == [404]
    await mesh.until(lambda: kept(mesh), lambda row: row.calls == 6, "six records are in auth")

    by_user = json.loads((await asyncio.to_thread(weft, mesh, "usage", "--by", "user", "--json")).stdout)
    assert {row["user"]: row["calls"] for row in by_user["rows"]} == {"users/dev": 2, "users/tester": 4}
    assert by_user["total"]["calls"] == 6
    own = json.loads((await asyncio.to_thread(weft, mesh, "usage", "--by", "user", "--json", key=key)).stdout)
    assert [row["user"] for row in own["rows"]] == ["users/tester"]
    for flags in (("--user", "users/dev"), ("--group", "groups/a")):
        refused = await asyncio.to_thread(weft, mesh, "usage", *flags, key=key)
        assert refused.returncode == 1
        assert "for administrators" in refused.stderr
    table = (await asyncio.to_thread(weft, mesh, "usage", "--by", "model,day")).stdout
    assert "total" in table
    text = (await asyncio.to_thread(weft, mesh, "usage", "--calls", "--csv")).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 6
    assert {row["model"] for row in rows} == {"sim-model", "'=cmd()"}, "no spreadsheet takes it for a formula"
    assert "a secret" not in text
    empty = await asyncio.to_thread(weft, mesh, "usage", "--until", "2020-01-01", "--since", "2019-01-01")
    assert "No call was recorded" in empty.stdout
    async with dial(mesh.address("auth")) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RecordCalls(usage_pb2.RecordCallsRequest(), metadata=bearer(key), timeout=20)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_acts_and_refusals_stand_in_logs_that_can_be_verified(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    key = await mesh.create_key(allow=("other-*",))
    assert await call(mesh, 3, key) == [403] * 3
    assert await call(mesh, 1, "weft_none_of_these") == [401]
    async with mesh.stubs(key) as stubs:
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs.auth.ListKeys(auth_pb2.ListKeysRequest(), **stubs.call)

    def told(service: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (mesh.home / service / "audit.log").read_text().splitlines()]

    async def refusals() -> list[dict[str, Any]]:
        return [line for line in told("router") if line["event"] == "refused"]

    found = await mesh.until(refusals, lambda lines: len(lines) >= 2, "refused calls are written")
    (forbidden,) = [line for line in found if line["reason"] == "model_forbidden"]
    assert (forbidden["principal"], forbidden["model"]) == ("users/tester", "sim-model")
    assert [line["event"] for line in told("auth") if line.get("method", "").endswith("CreateKey")] == ["act", "done"]
    await mesh.router.terminate()
    assert [line["count"] for line in told("router") if line.get("count")] == [2], "the rest of the flood"

    sound = await asyncio.to_thread(weft, mesh, "audit", "verify")
    assert sound.returncode == 0, sound.stdout
    head = (await asyncio.to_thread(weft, mesh, "audit", "head")).stdout.split()[0]
    assert (await asyncio.to_thread(weft, mesh, "audit", "verify", "--expect", head)).returncode == 0
    shown = (await asyncio.to_thread(weft, mesh, "audit", "show", "--principal", "users/tester")).stdout
    assert "reason=action_forbidden" in shown
    log = mesh.home / "auth" / "audit.log"
    secrets = [key, mesh.key, "a secret"]
    assert not any(secret in file.read_text() for secret in secrets for file in _logs(mesh.home))
    log.write_text(log.read_text().replace("users/tester", "users/nobody", 1))
    damaged = await asyncio.to_thread(weft, mesh, "audit", "verify")
    assert damaged.returncode == 1
    assert "changed" in damaged.stdout
    unknown = await asyncio.to_thread(
        weft, mesh, "audit", "verify", str(mesh.home / "router/audit.log"), "--expect", "0" * 64
    )
    assert unknown.returncode == 1
    assert "truncated" in unknown.stdout


def _logs(home: Path) -> list[Path]:
    return list(home.glob("*/audit.log"))
