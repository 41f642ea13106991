"""Takes what vLLM exports of its own spans, by OTLP over gRPC, unread: bytes in, nothing out.

A generic handler, because OpenTelemetry's stubs are no dependency of the worker's. An empty answer is an
`ExportTraceServiceResponse` that says that all was taken; vLLM could do nothing better about what was not
(https://opentelemetry.io/docs/specs/otlp/#otlpgrpc).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc

_SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"
_LARGEST: Final = 1024 * 1024
"""Bytes of one export: the SDK sends 512 spans at once, and vLLM's have 700 bytes each."""

PLACEHOLDER: Final = "{otlp}"
"""Stands for the receiver's URL in the command that launches vLLM."""

ANY_PORT: Final = "127.0.0.1:0"


class OtlpReceiver:
    """Listens at `host:port`, where port 0 is any. Raises OSError if it cannot."""

    def __init__(self, address: str, take: Callable[[bytes], None]) -> None:
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),  # else a second one at the same port would get half of the spans, unnoticed
                ("grpc.max_receive_message_length", _LARGEST),
            ),
            maximum_concurrent_rpcs=16,
        )

        async def export(payload: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            take(payload)
            return b""

        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Export": grpc.unary_unary_rpc_method_handler(export)
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        host = address.rpartition(":")[0]
        try:
            self.url = f"http://{host}:{self._server.add_insecure_port(address)}"
        except RuntimeError as error:
            raise OSError(0, "cannot listen for vLLM's spans there", address) from error

    async def start(self) -> None:
        """Takes exports from now on."""
        await self._server.start()

    async def stop(self) -> None:
        """Takes none any more."""
        await self._server.stop(None)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a launched vLLM needs to export to its worker, beside `environ`, what it inherits. What an operator has set
    is kept, but for what must be so here.
    """
    proxied = environ.get("no_grpc_proxy") or environ.get("no_proxy") or ""
    return {
        # vLLM's gRPC would go by the site's proxy even to loopback.
        "no_grpc_proxy": ",".join(filter(None, (proxied, "127.0.0.1", "localhost"))),
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "OTEL_SERVICE_NAME": environ.get("OTEL_SERVICE_NAME", "vllm"),
        # The SDK's own 5 s would have a trace incomplete for as long.
        "OTEL_BSP_SCHEDULE_DELAY": environ.get("OTEL_BSP_SCHEDULE_DELAY", "1000"),
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "128"),
    }
