"""The measurements: each adds a round of samples to the figures. The systems take turns within a round."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from bench import proc
from bench.figures import ADDED_P50, ADDED_P99, BOTH, CPU_CHUNK, CPU_REQUEST, REQUESTS, Figures, Quantity
from bench.figures import clients as clients_load
from bench.figures import streams as streams_load
from bench.load import ClosedLoopResult, closed_loop, idle_streams, paced_streams
from bench.systems import INTER_TOKEN_S, System

CLIENTS = (1, 16, 64)
STREAMS = (64, 512)
IDLE_STREAMS = 1000

_IDLE_S = 1.0
#: How long the idle streams may take to open.
_ARRIVED_S = 60.0
#: How long a mesh is given to settle, once all streams are open and once they are closed.
_SETTLE_S = 1.0

Rates = Mapping[str, float]


class WrongAnswerError(Exception):
    """A system did not answer as it should; figures of such a run mean nothing."""


@dataclass(slots=True)
class CpuMeter:
    """The CPU time of a system's parts from its making on, less what they use when idle (`idle`: ns per second)."""

    system: System
    idle: Rates = field(default_factory=dict)
    _began: dict[str, int] = field(init=False)
    _began_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._began, self._began_at = self._now(), perf_counter()

    def used_ns(self) -> dict[str, float]:
        """By part; facade and router together too."""
        elapsed = perf_counter() - self._began_at
        used = {part: now - self._began[part] - self.idle.get(part, 0.0) * elapsed for part, now in self._now().items()}
        return _with_both(used)

    def _now(self) -> dict[str, int]:
        return {part: sum(map(proc.cpu_ns, pids)) for part, pids in self.system.parts.items()}


def _with_both(by_part: Mapping[str, float]) -> dict[str, float]:
    both = {BOTH: by_part["facade"] + by_part["router"]} if "facade" in by_part else {}
    return {**both, **by_part}


async def warm_up(systems: Sequence[System]) -> None:
    """Has every system answer for a second, whole and streamed."""
    for system in systems:
        verify(system, await closed_loop(system.target("bench-fast"), connections=64, seconds=1.0))
        await paced_streams(system.target("bench-paced"), streams=64, tokens=20)


async def idle_rates(systems: Sequence[System]) -> dict[str, Rates]:
    """What the parts of each system use when there is nothing to do, in ns of CPU time per second."""
    meters = [CpuMeter(system) for system in systems]
    await asyncio.sleep(_IDLE_S)
    return {meter.system.name: {part: ns / _IDLE_S for part, ns in meter.used_ns().items()} for meter in meters}


async def requests(systems: Sequence[System], idle: Mapping[str, Rates], seconds: float, figures: Figures) -> None:
    """A round of closed loops. The first system is the direct one, which the others' latency is compared with."""
    for clients in CLIENTS:
        load = clients_load(clients)
        direct: ClosedLoopResult | None = None
        for system in systems:
            meter = CpuMeter(system, idle[system.name])
            result = await closed_loop(system.target("bench-fast"), connections=clients, seconds=seconds, warmup_s=0.0)
            used = meter.used_ns()
            verify(system, result)
            figures.add(Quantity(REQUESTS, "", load), system.name, result.requests_per_s)
            figures.add(Quantity("p50", "ms", load), system.name, result.latency.p50 * 1e3)
            figures.add(Quantity("p99", "ms", load), system.name, result.latency.p99 * 1e3)
            figures.add(Quantity("client busy", "%", load), system.name, result.client_cpu_s / result.seconds * 100)
            if direct is None:
                direct = result
                continue
            added = result.latency
            figures.add(Quantity(ADDED_P50, "ms", load), system.name, (added.p50 - direct.latency.p50) * 1e3)
            figures.add(Quantity(ADDED_P99, "ms", load), system.name, (added.p99 - direct.latency.p99) * 1e3)
            for part, ns in used.items():
                figures.add(Quantity(f"{CPU_REQUEST}, {part}", "µs", load), system.name, ns / 1e3 / result.requests)


async def chunks(systems: Sequence[System], idle: Mapping[str, Rates], seconds: float, figures: Figures) -> None:
    """A round of paced streams. Their opening is part of what they cost."""
    tokens = max(2, round(seconds / INTER_TOKEN_S))
    for streams in STREAMS:
        load = streams_load(streams)
        for system in systems:
            meter = CpuMeter(system, idle[system.name])
            result = await paced_streams(system.target("bench-paced"), streams=streams, tokens=tokens)
            used = meter.used_ns()
            if result.intact < streams:
                reason = result.first_error or "an answer has too few or too many events"
                raise WrongAnswerError(f"{system.name}: {streams - result.intact} of {streams} streams: {reason}")
            figures.add(Quantity("chunks/s", "", load), system.name, result.chunks_per_s)
            figures.add(Quantity("TTFT p50", "ms", load), system.name, result.ttft.p50 * 1e3)
            figures.add(Quantity("gap p99", "ms", load), system.name, result.gap.p99 * 1e3)
            for part, ns in used.items():
                figures.add(Quantity(f"{CPU_CHUNK}, {part}", "µs", load), system.name, ns / 1e3 / result.chunks)


async def memory(systems: Sequence[System], figures: Figures) -> None:
    """What idle streams hold. Once per run: later streams would reuse the memory of the first ones."""
    for system in systems:
        if not system.parts:
            continue
        before = _memory(system)
        async with idle_streams(system.target("bench-silent"), IDLE_STREAMS) as idle:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(idle.arrived(), _ARRIVED_S)
            await asyncio.sleep(_SETTLE_S)
            if idle.answered < IDLE_STREAMS or idle.broken:
                raise WrongAnswerError(f"{system.name}: only {idle.answered} of {IDLE_STREAMS} idle streams opened")
            held = _memory(system)
        await asyncio.sleep(_SETTLE_S)
        load = f"{IDLE_STREAMS} idle streams"
        for part, size in before.items():
            figures.add(Quantity(f"memory before, {part}", "MiB", load), system.name, size / 2**20)
            grown = (held[part] - size) / IDLE_STREAMS
            figures.add(Quantity(f"memory per stream, {part}", "KiB", load), system.name, grown / 2**10)


def _memory(system: System) -> dict[str, float]:
    by_part = {part: float(sum(map(proc.own_memory, pids))) for part, pids in system.parts.items() if part != "worker"}
    return _with_both(by_part)


def verify(system: System, result: ClosedLoopResult) -> None:
    """Raises `WrongAnswerError` unless every request was answered as it should."""
    if result.errors or not result.requests:
        raise WrongAnswerError(f"{system.name}: {result.errors} errors; the first: {result.first_error}")
