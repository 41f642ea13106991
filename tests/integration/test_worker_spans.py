"""Workers' spans, and those of the vLLMs behind them, from real workers through a real router to a collector."""

import asyncio
import sys
from pathlib import Path

import aiohttp

from services.cli.parts import Vllm
from services.sim.config import SimConfig
from services.sim.faults import Fault
from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import ENDPOINT, Mesh, StartMesh
from tests.testing.otlp_sink import OtlpSink, SunkSpan
from tests.testing.processes import HeldPort
from tests.testing.sim import running_sim
from tests.testing.workers import launch

TRACE, PARENT = "ab" * 16, "cd" * 8
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"

# The simulator knows nothing of OTLP. This sends a span as the SDK within vLLM does.
EXPORT = f"""
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=sys.argv[1], insecure=True)))
parent = trace.SpanContext(0x{TRACE}, 0x{PARENT}, is_remote=True, trace_flags=trace.TraceFlags(1))
context = trace.set_span_in_context(trace.NonRecordingSpan(parent))
provider.get_tracer("vllm").start_span("llm_request", context=context).end()
provider.shutdown()
"""


def of(spans: list[SunkSpan], service: str) -> list[SunkSpan]:
    return [span for span in spans if span.service == service]


async def ask(mesh: Mesh, traceparent: str) -> int:
    body = {"model": "sim-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    headers = {"Authorization": f"Bearer {mesh.key}", "traceparent": traceparent}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{mesh.url}/v1/chat/completions", json=body, headers=headers) as response,
    ):
        await response.read()
        return response.status


def tracing(sink: OtlpSink) -> dict[str, object]:
    return {"endpoint": f"http://{sink.grpc_address}", "ratio": 0.0}


async def test_a_workers_span_hangs_under_the_routers_attempt(start_mesh: StartMesh) -> None:
    async with OtlpSink() as sink:
        mesh = await start_mesh(tracing=tracing(sink))
        assert await ask(mesh, SAMPLED) == 200
        dispatch = f"dispatch {ENDPOINT}"  # the router's other spans may come before
        spans = await sink.wait_for(lambda spans: {"serve chat", dispatch} <= {span.name for span in spans})
        (worker,), (session,) = of(spans, "weft-worker"), await mesh.sessions()
        (attempt,) = [span for span in spans if span.name == dispatch]
        assert (worker.trace, worker.parent, worker.name, worker.kind) == (TRACE, attempt.span, "serve chat", "SERVER")
        resource = {"service.name": "weft-worker", "weft.endpoint": ENDPOINT, "weft.instance": session.instance}
        assert worker.resource == resource


async def test_a_failure_is_told_that_nobody_sampled(start_mesh: StartMesh) -> None:
    config = SimConfig(port=0, faults=(Fault(status=500),))
    async with OtlpSink() as sink, running_sim(config) as (address, _):
        mesh = await start_mesh(workers=0, tracing=tracing(sink))
        await mesh.add_worker(vllm_url=address)
        assert await ask(mesh, UNSAMPLED) == 500
        assert await ask(mesh, UNSAMPLED) == 200
        (worker,) = of(await sink.wait_for(lambda spans: of(spans, "weft-worker")), "weft-worker")
        assert (worker.trace, worker.status, worker.attributes["error.type"]) == (TRACE, "error", "500")


async def test_a_launched_vllm_is_told_where_to_send_its_spans(start_mesh: StartMesh, tmp_path: Path) -> None:
    """It sends some before a router is there; they wait for it."""
    program = tmp_path / "export.py"
    program.write_text(EXPORT)
    script = f"{sys.executable} {program} $1 && exec {sys.executable} -m services.sim --port $0"
    vllm = Vllm(command=("sh", "-c", script, "{port}", "{otlp}"))
    async with OtlpSink() as sink:
        mesh = await start_mesh(workers=0, tracing=tracing(sink))
        launch(mesh, "--key-file", str(mesh.home / "worker.key"), vllm=vllm)
        (span,) = of(await sink.wait_for(lambda spans: of(spans, "vllm")), "vllm")
        assert (span.trace, span.parent, span.name) == (TRACE, PARENT, "llm_request")
        (session,) = await mesh.sessions()
        assert span.resource == {
            "service.name": "vllm",
            "weft.endpoint": ENDPOINT,
            "weft.instance": session.instance,
        }


async def test_a_worker_that_ends_sends_what_it_has(start_mesh: StartMesh, tmp_path: Path) -> None:
    """Its last call's span, and what an attached vLLM has sent."""
    program = tmp_path / "export.py"
    program.write_text(EXPORT)
    port = HeldPort()
    async with OtlpSink() as sink:
        mesh = await start_mesh(tracing=tracing(sink), worker=("--otlp-address", f"127.0.0.1:{port.port}"))
        exporting = await asyncio.create_subprocess_exec(sys.executable, str(program), f"http://127.0.0.1:{port.port}")
        assert await exporting.wait() == 0
        assert await ask(mesh, SAMPLED) == 200
        assert await mesh.workers[0].terminate() == 0
        spans = await sink.wait_for(lambda spans: of(spans, "weft-worker") and of(spans, "vllm"))
        assert [span.name for span in of(spans, "vllm")] == ["llm_request"]
    port.close()


async def test_a_worker_whose_spans_nobody_takes_serves_all_the_same(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    assert await ask(mesh, SAMPLED) == 200
    assert await Call(mesh, stream=True).ending() == WHOLE
