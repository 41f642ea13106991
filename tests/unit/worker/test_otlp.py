"""The worker's receiver of vLLM's spans, with OpenTelemetry's own exporter, as vLLM has it."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult

from services.worker.otlp import ANY_PORT, OtlpReceiver, environment


class Exporter(OTLPSpanExporter):
    """Keeps how each export went."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint=endpoint, insecure=True)  # as vLLM makes it
        self.results: list[SpanExportResult] = []

    def export(self, spans):  # type: ignore[no-untyped-def]
        self.results.append(super().export(spans))
        return self.results[-1]


async def export(url: str, attribute: str = "") -> Exporter:
    def run() -> Exporter:
        exporter = Exporter(url)
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        with provider.get_tracer("vllm").start_as_current_span("llm_request", attributes={"a": attribute}):
            pass
        provider.shutdown()
        return exporter

    return await asyncio.to_thread(run)


async def test_what_vllm_exports_comes_as_it_was_sent_and_vllm_is_content():
    taken: list[bytes] = []
    receiver = OtlpReceiver(ANY_PORT, taken.append)
    await receiver.start()
    exporter = await export(receiver.url)
    await receiver.stop()
    assert exporter.results == [SpanExportResult.SUCCESS]
    (payload,) = taken
    request = ExportTraceServiceRequest.FromString(payload)
    assert [span.name for span in request.resource_spans[0].scope_spans[0].spans] == ["llm_request"]


async def test_an_export_that_is_too_large_is_refused():
    taken: list[bytes] = []
    receiver = OtlpReceiver(ANY_PORT, taken.append)
    await receiver.start()
    exporter = await export(receiver.url, "x" * 1024 * 1024)
    await receiver.stop()
    assert (exporter.results, taken) == ([SpanExportResult.FAILURE], [])


async def test_an_address_in_use_is_a_clear_error():
    first = OtlpReceiver(ANY_PORT, lambda payload: None)
    with pytest.raises(OSError, match="cannot listen for vLLM's spans there") as caught:
        OtlpReceiver(first.url.removeprefix("http://"), lambda payload: None)
    assert caught.value.filename == first.url.removeprefix("http://")
    await first.stop()


def test_loopback_is_no_matter_for_the_sites_proxy_and_what_an_operator_set_stays():
    given = environment({"no_proxy": "internal.example.org", "OTEL_SERVICE_NAME": "llama"})
    assert given["no_grpc_proxy"] == "internal.example.org,127.0.0.1,localhost"
    assert given["OTEL_SERVICE_NAME"] == "llama"
    assert environment({})["OTEL_SERVICE_NAME"] == "vllm"
