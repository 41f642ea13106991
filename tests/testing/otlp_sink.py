"""A collector for tests: takes spans by OTLP, over gRPC and over HTTP, and shows what it was sent.

async with OtlpSink() as sink:
    ...start something with tracing.endpoint = f"http://{sink.grpc_address}"
    spans = await sink.wait_for(lambda spans: {"facade", "router"} <= {span.service for span in spans})
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PbSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.testing.processes import SOON


@dataclass(frozen=True, slots=True)
class SunkSpan:
    """A span as it came. `service` is its resource's `service.name`; ids are in hexadecimal, `parent` empty for a root;
    `kind` is the enum's name without its prefix; `status` is `unset`, `ok` or `error`; times are in nanoseconds.
    """

    service: str
    name: str
    trace: str
    span: str
    parent: str
    kind: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: tuple[SunkEvent, ...]
    status: str
    message: str
    resource: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SunkEvent:
    """An event of a span."""

    name: str
    time: int
    attributes: dict[str, Any] = field(default_factory=dict)


class OtlpSink(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector on free ports of loopback, or on the one given for gRPC. With a `certificate`, its chain's file and
    its key's, it speaks TLS. `headers` holds what the latest export came with, its names in lower case.
    """

    def __init__(self, grpc_port: int = 0, certificate: tuple[Path, Path] | None = None) -> None:
        self.spans: list[SunkSpan] = []
        self.headers: dict[str, str] = {}
        self.grpc_address = ""
        self.http_url = ""
        self._port = grpc_port
        self._certificate = certificate
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.grpc_address = f"127.0.0.1:{self._listen(f'127.0.0.1:{self._port}')}"
        await self._server.start()
        app = web.Application()
        app.router.add_post("/v1/traces", self._post)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        tls = None
        if self._certificate is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(*self._certificate)
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.http_url = f"{'https' if tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    def _listen(self, address: str) -> int:
        if self._certificate is None:
            return self._server.add_insecure_port(address)
        chain, key = (file.read_bytes() for file in self._certificate)
        return self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(None)
        await self._runner.cleanup()

    async def wait_for(self, enough: Callable[[list[SunkSpan]], Any], seconds: float = SOON) -> list[SunkSpan]:
        """All spans, once `enough` is true of them. Fails with what came instead."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: enough(self.spans))
        except TimeoutError:
            came = "\n".join(f"  {span.service}: {span.name} {span.attributes}" for span in self.spans)
            raise AssertionError(f"not within {seconds:g} s; {len(self.spans)} spans came:\n{came}") from None
        return list(self.spans)

    def trace(self, trace_id: str) -> list[SunkSpan]:
        """The spans of one trace, in the order of their start."""
        return sorted((span for span in self.spans if span.trace == trace_id), key=lambda span: span.start)

    async def Export(  # noqa: N802 - gRPC's name
        self, request: pb.ExportTraceServiceRequest, context: Any
    ) -> pb.ExportTraceServiceResponse:
        """OTLP/gRPC."""
        await self._take(request, dict(context.invocation_metadata() or ()))
        return pb.ExportTraceServiceResponse()

    async def _post(self, request: web.Request) -> web.Response:
        """OTLP/HTTP, with protobuf."""
        if request.content_type != "application/x-protobuf":
            return web.Response(status=415)
        headers = {name.lower(): value for name, value in request.headers.items()}
        await self._take(pb.ExportTraceServiceRequest.FromString(await request.read()), headers)
        answer = pb.ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")

    async def _take(self, request: pb.ExportTraceServiceRequest, headers: dict[str, str]) -> None:
        async with self._changed:
            self.headers = headers
            for of_resource in request.resource_spans:
                resource = _attributes(of_resource.resource.attributes)
                for scope in of_resource.scope_spans:
                    self.spans += [_sunk(span, resource) for span in scope.spans]
            self._changed.notify_all()


def _sunk(span: PbSpan, resource: dict[str, Any]) -> SunkSpan:
    return SunkSpan(
        service=str(resource.get("service.name", "")),
        name=span.name,
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=PbSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=tuple(SunkEvent(one.name, one.time_unix_nano, _attributes(one.attributes)) for one in span.events),
        status=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").lower(),
        message=span.status.message,
        resource=resource,
    )


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if which is None else getattr(value, which)
