"""A process and its collector, over real sockets: one that takes spans, one that is away, one that never answers."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.cli.check import Check
from services.cli.checks import examine
from services.runtime.child import Child, ChildError, ChildSpec, start_child
from services.runtime.telemetry.files import read
from services.runtime.telemetry.pipeline import FLUSH
from tests.testing.certificates import Authority
from tests.testing.mesh import StartMesh
from tests.testing.otlp_sink import OtlpSink
from tests.testing.processes import SOON, HeldPort

PROGRAM = """
import asyncio, json, sys
from pathlib import Path
import msgspec
from services.runtime.logging import LogConfig
from services.runtime.metrics import MetricsConfig
from services.runtime.service import run_service
from services.runtime.telemetry.config import TracingConfig
from tests.testing.exports import span

async def serve(process):
    process.ready("router", "127.0.0.1:1")
    number = 0
    while not process.stopping.is_set():
        process.tracer.record(span(str(number)))
        number += 1
        await asyncio.wait({asyncio.ensure_future(process.stopping.wait())}, timeout=0.02)
    process.tracer.record(span("the last"))

home, tracing, _, ready_fd = sys.argv[1:]
sys.exit(run_service("router", serve, home=Path(home), log=LogConfig(), metrics=MetricsConfig(port=None),
                     tracing=msgspec.convert(json.loads(tracing), TracingConfig), ready_fd=int(ready_fd)))
"""

ENDED = FLUSH + 18
"""Seconds in which a process must have ended: on a starved machine, and yet less than the SDK's own half a minute."""

Start = Callable[..., Awaitable[Child]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a process that records a span every now and then, and `the last` as it is stopped."""
    children: list[Child] = []

    async def start(environ: dict[str, str] | None = None, **tracing: Any) -> Child:
        command = (sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(tracing))
        children.append(await start_child(ChildSpec("router", command, tmp_path / "log", environ or {})))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        await child.wait()


def logged(folder: Path, words: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (folder / "log").read_text().splitlines() if line.startswith("{")]
    return [entry for entry in entries if words in entry["event"]]


async def stopped(child: Child) -> None:
    """It ends as asked: the SDK's own processor would hold it for half a minute where a collector does not answer."""
    await child.ready()
    child.send(signal.SIGTERM)
    async with asyncio.timeout(ENDED):
        assert await child.wait() == 0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_spans_reach_the_collector_the_last_as_the_process_ends(
    protocol: str, tmp_path: Path, start: Start
) -> None:
    (tmp_path / "headers").write_text("# for the collector\nX-Api-Key: s3cret\n")
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "x-leaked=1",
        "OTEL_SDK_DISABLED": "true",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "nonsense",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.name=mine",
    }
    async with OtlpSink() as sink:
        endpoint = f"http://{sink.grpc_address}" if protocol == "grpc" else sink.http_url
        child = await start(environ, endpoint=endpoint, protocol=protocol, headers_file="headers")
        await stopped(child)
        spans = await sink.wait_for(lambda spans: any(span.name == "the last" for span in spans))
        assert sink.headers["x-api-key"] == "s3cret"
        assert "x-leaked" not in sink.headers
    assert [span.name for span in spans[:-1]] == [str(number) for number in range(len(spans) - 1)]
    resource = spans[0].resource
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("weft-router", "test")
    assert {"service.instance.id", "service.version", "host.name"} <= set(resource)
    assert "s3cret" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_collector_is_known_by_its_certificate(protocol: str, tmp_path: Path, start: Start) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    async with OtlpSink(certificate=authority.issue("127.0.0.1")) as sink:
        endpoint = f"https://{sink.grpc_address}" if protocol == "grpc" else sink.http_url
        deceived = await start(endpoint=endpoint, protocol=protocol, ca_file=other.file.name)
        await stopped(deceived)
        assert not sink.spans
        await start(endpoint=endpoint, protocol=protocol, ca_file=authority.file.name)
        await sink.wait_for(len)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_collector_that_never_answers_holds_up_nothing(protocol: str, tmp_path: Path, start: Start) -> None:
    connected = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read(-1)
        writer.close()

    hole = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with hole:
        endpoint = f"http://127.0.0.1:{hole.sockets[0].getsockname()[1]}"
        child = await start(endpoint=endpoint, protocol=protocol, local=True)
        await asyncio.wait_for(connected.wait(), SOON)
        await stopped(child)
    assert any(span.name == "the last" for span in read(tmp_path))


async def test_calls_go_on_where_the_collector_never_answers(start_mesh: StartMesh) -> None:
    # Closed, and not waited for: from Python 3.12 on that would be until the last of the mesh has hung up.
    with closing(await asyncio.start_server(lambda reader, writer: asyncio.sleep(3600), "127.0.0.1", 0)) as hole:
        endpoint = f"http://127.0.0.1:{hole.sockets[0].getsockname()[1]}"
        mesh = await start_mesh(tracing={"endpoint": endpoint, "ratio": 1}, sim=("--inter-token-s", "0"))
        client = mesh.openai(timeout=SOON)

        async def router_log() -> str:
            return mesh.router.log

        for _ in range(20):
            answers = (
                client.chat.completions.create(model="sim-model", messages=[{"role": "user", "content": "Hello"}])
                for _ in range(20)
            )
            await asyncio.gather(*answers)
        await mesh.until(
            lambda: mesh.router.metric("weft_trace_spans_total", sink="collector", outcome="failed"),
            lambda failed: failed > 0,
            "spans are lost and counted",
        )
        # It counts them, and then says so.
        await mesh.until(router_log, lambda log: "calls go on" in log, "it is told that calls go on")
        async with asyncio.timeout(ENDED):
            assert await mesh.facade.terminate() == 0
            assert await mesh.router.terminate() == 0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_collector_that_is_away_is_told_of_once_with_the_remedy(
    protocol: str, tmp_path: Path, start: Start
) -> None:
    port = HeldPort()
    child = await start(endpoint=f"http://127.0.0.1:{port.port}", protocol=protocol)
    async with asyncio.timeout(SOON):
        while not logged(tmp_path, "spans are lost"):  # noqa: ASYNC110 the event is in another process
            await asyncio.sleep(0.05)
    await stopped(child)
    port.close()
    (entry,) = logged(tmp_path, "spans are lost")
    assert f"127.0.0.1:{port.port}" in entry["event"]
    assert "refused" in entry["event"]
    assert "'tracing.endpoint'" in entry["event"]
    assert [one["event"] for one in logged(tmp_path, "") if one["logger"].startswith("opentelemetry")] == []


async def test_a_collector_that_comes_late_gets_the_spans_of_the_time_after(tmp_path: Path, start: Start) -> None:
    port = HeldPort()
    await start(endpoint=f"http://127.0.0.1:{port.port}")
    async with asyncio.timeout(SOON):
        while not logged(tmp_path, "spans are lost"):  # noqa: ASYNC110 the event is in another process
            await asyncio.sleep(0.05)
    async with OtlpSink(port.port) as sink:
        await sink.wait_for(len)
    port.close()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"endpoint": "http://b:4317", "headers_file": "none"}, r"none cannot be read: No such file or directory"),
        ({"endpoint": "http://b:4317", "headers_file": "bad"}, r"has in line 2 of \S+bad no header"),
        ({"endpoint": "https://b:4317", "ca_file": "bad"}, r"holds no certificate"),
    ],
)
async def test_a_wrong_setting_is_told_when_a_process_starts(
    settings: dict[str, str], told: str, tmp_path: Path, start: Start
) -> None:
    (tmp_path / "bad").write_text("authorization: fine\ns3cret without a name\n")
    child = await start(**settings)
    with pytest.raises(ChildError, match=told):
        await child.ready()
    assert "s3cret" not in (tmp_path / "log").read_text().rpartition("ServiceError")[2]


async def test_doctor_asks_the_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked() -> Check:
        return next(check for check in [check async for check in examine()] if check.part == "collector")

    monkeypatch.setenv("WEFT_HOME", str(tmp_path))
    async with OtlpSink() as sink:
        monkeypatch.setenv("WEFT_TRACING__ENDPOINT", f"http://{sink.grpc_address}")
        assert (await asked()).good
    check = await asked()
    assert not check.good
    assert "refused" in check.found
    assert "'tracing.endpoint'" in check.remedy
