"""A simulated vLLM inside the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.sim.config import SimConfig
from services.sim.main import serve


@contextlib.asynccontextmanager
async def running_sim(config: SimConfig) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A simulator that serves while the block runs: its address, and the event that stops it.

    Give port 0. The block is cancelled after 90 seconds, so that a test that waits in vain ends; a whole mesh may start
    within it.
    """
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        group.create_task(serve(config, ready=ready.set_result, stop=stop))
        yield await ready, stop
        stop.set()
