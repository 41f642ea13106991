"""A mesh of two workers, each with a simulated vLLM that a test can kill by itself, put in order before each test."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from weft.session.v1 import frame_pb2

from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import MeshOptions, hold, let_go
from tests.testing.simulator import Simulator


class Twins:
    """`mesh` with `sims`; the first worker has the first of them."""

    def __init__(self, home: Path) -> None:
        # Calls wait for a router that a test starts again, and there for its workers, however slow the machine.
        router = {"settle_s": 20, "wait_for_worker_s": 20}
        self.mesh = hold(home, MeshOptions(workers=0, router=router, facade={"wait_for_router_s": 20}))
        self.sims = [Simulator(f"sim-{number}", home) for number in (1, 2)]

    # Its life

    async def start(self) -> None:
        """Starts all."""
        for sim in self.sims:
            sim.launch()
        await self.mesh.start()
        for sim in self.sims:
            self.mesh.launch_worker(vllm_url=sim.url)
        await self.until_ready(2)

    async def restore(self) -> None:
        """Starts what the last test left dead, and waits until all are ready and nothing is computed."""
        dead = [part for part in (*self.sims, *self.mesh.parts) if not part.running]
        for part in dead:
            await part.start()
        for sim in self.sims:
            await self.mesh.until(sim.answers, bool, f"{sim.name} answers")
            await sim.forgive()
        await self.until_ready(2)
        for place in range(len(self.sims)) if dead else ():
            await self.until_used(place)
        await self.until_idle()

    def clear_away(self) -> None:
        """Ends all."""
        let_go(self.mesh)
        for sim in self.sims:
            sim.clear_away()

    # What it does

    async def ask(self, **how: Any) -> str:
        """How a short call ends."""
        return await Call(self.mesh, **{"stream": False, **how}).ending()

    async def spread(self, **how: Any) -> list[Call]:
        """A call at each worker, the first at the first."""
        calls: dict[int, Call] = {}
        for number in range(len(self.sims)):
            before = await self.computing()
            call = Call(self.mesh, **how)
            now = await self.mesh.until(self.computing, lambda now: now != before, f"call {number} is computed")  # noqa: B023
            places = [place for place in range(len(now)) if now[place] > before[place]]
            assert places, f"a call ended before call {number} began: {before}, then {now}"
            calls[places[0]] = call
        assert len(calls) == len(self.sims), "two calls at one worker, none at the other"
        return [calls[place] for place in sorted(calls)]

    async def computing(self) -> list[int]:
        """How many calls each simulator computes; none where it is dead."""
        return [await sim.running_calls() if await sim.answers() else 0 for sim in self.sims]

    # Each of these gives the seconds that it took

    async def until_ready(self, workers: int) -> float:
        """Waits until just so many workers are attached, with a vLLM that answers."""
        began = time.monotonic()
        await self.mesh.until(self._ready, lambda ready: ready == workers, f"{workers} workers are ready")
        return time.monotonic() - began

    async def until_served(self) -> float:
        """Waits until a call is answered."""
        began = time.monotonic()
        await self.mesh.until(self.ask, lambda ending: ending == WHOLE, "a call is answered")
        return time.monotonic() - began

    async def until_used(self, place: int) -> float:
        """Waits until a worker has answered a call."""
        began = time.monotonic()
        sim = self.sims[place]
        await self.mesh.until(sim.answers, bool, f"{sim.name} answers")
        before = await sim.generated()

        async def use() -> int:
            await asyncio.gather(*(self.ask() for _ in self.sims))
            return await sim.generated()

        await self.mesh.until(use, lambda generated: generated > before, f"{sim.name} answers calls")
        return time.monotonic() - began

    async def until_idle(self) -> float:
        """Waits until no simulator computes."""
        began = time.monotonic()
        await self.mesh.until(self.computing, lambda computing: not any(computing), "nothing is computed")
        return time.monotonic() - began

    async def _ready(self) -> int:
        return sum(session.report.state == frame_pb2.WORKER_STATE_READY for session in await self.mesh.sessions())
