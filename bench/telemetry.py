"""What it costs to be watched: CPU time of facade and router per request, with metrics and 1 % of all traces sent to a
collector, beside the same mesh with neither.

The two meshes take short turns within a round, in both orders, so that a machine that changes does so for both. Each
round has meshes of its own: two of the same settings differ by some hundredths all their lives, as their memory lies.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import grpc

from bench.figures import BOTH, CLIENTS_OF_TELEMETRY, RISE, Figures, Quantity, clients
from bench.load import closed_loop
from bench.measure import CpuMeter, Rates, idle_rates, verify, warm_up
from bench.systems import Settings, System, watched

SYSTEM: Final = "separate"
OFF: Final = f"CPU per request, {BOTH}, unwatched"
ON: Final = f"CPU per request, {BOTH}, watched"

_OFF: Final[Settings] = {"metrics": {"port": None}, "tracing": {"local": False}}
_TURNS: Final = 4
_RATIO: Final = 0.01
_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


async def measure(seconds: float, rounds: int, home: Path, figures: Figures) -> None:
    """Adds the figures of so many rounds; each mesh is asked for `seconds` in each of its turns."""
    load = clients(CLIENTS_OF_TELEMETRY)
    async with _collector() as address:
        on: Settings = {
            "metrics": {"port": 0},
            "tracing": {"local": False, "endpoint": f"http://{address}", "protocol": "grpc", "ratio": _RATIO},
        }
        for number in range(rounds):
            first, second = (_OFF, on) if number % 2 == 0 else (on, _OFF)
            async with watched(home / f"round-{number}", first, second) as systems:
                await warm_up(systems)
                unwatched, with_telemetry = systems if first is _OFF else reversed(systems)
                off_us, on_us = await _round(unwatched, with_telemetry, await idle_rates(systems), seconds)
            figures.add(Quantity(OFF, "µs", load), SYSTEM, off_us)
            figures.add(Quantity(ON, "µs", load), SYSTEM, on_us)
            figures.add(Quantity(RISE, "%", load), SYSTEM, (on_us / off_us - 1) * 100)


async def _round(off: System, on: System, idle: Mapping[str, Rates], seconds: float) -> tuple[float, float]:
    """µs a request, of each."""
    used, answered = {off.name: 0.0, on.name: 0.0}, {off.name: 0, on.name: 0}
    for turn in range(_TURNS):
        for system in (off, on) if turn % 2 == 0 else (on, off):
            meter = CpuMeter(system, idle[system.name])
            result = await closed_loop(
                system.target("bench-fast"), connections=CLIENTS_OF_TELEMETRY, seconds=seconds, warmup_s=0.0
            )
            used[system.name] += meter.used_ns()[BOTH]
            verify(system, result)
            answered[system.name] += result.requests
    return used[off.name] / 1e3 / answered[off.name], used[on.name] / 1e3 / answered[on.name]


@contextlib.asynccontextmanager
async def _collector() -> AsyncIterator[str]:
    """A collector by OTLP/gRPC that takes everything and keeps nothing; its address."""

    async def export(request: bytes, context: object) -> bytes:
        return b""

    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    service, _, method = _EXPORT[1:].partition("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(export)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(1.0)
