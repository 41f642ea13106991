"""Auth, registry, router and facade in one process, on one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from services.cli.settings import serve_function
from services.runtime.process import Process

ORDER = ("auth", "registry", "router", "facade")
"""In which they start, as each needs those before it; they stop the other way round."""

Serve = Callable[[Any, Process], Awaitable[None]]


async def serve_all(configs: Mapping[str, Any], process: Process) -> None:
    """Serves all until `process.stopping`. Raises what any of them raises, after the others have stopped."""
    async with AsyncExitStack() as running:
        tasks: set[asyncio.Future[Any]] = set()
        for service in ORDER:
            serving = _serving(service, serve_function(service), configs[service], process)
            tasks.add(await running.enter_async_context(serving))
        asked = asyncio.ensure_future(process.stopping.wait())
        try:
            await asyncio.wait({asked, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()


@asynccontextmanager
async def _serving(service: str, serve: Serve, config: Any, outer: Process) -> AsyncIterator[asyncio.Future[None]]:
    """One service, ready in the body of the `async with`, and stopped after it."""
    is_ready = asyncio.Event()

    def ready(name: str, address: str) -> None:
        outer.ready(name, address)
        is_ready.set()

    process = Process(home=outer.home, ready=ready, grace=outer.grace)
    task = asyncio.ensure_future(serve(config, process))
    waiting = asyncio.ensure_future(is_ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not is_ready.is_set():
            raise RuntimeError(f"{service} ended before it was ready") from task.exception()
        yield task
    finally:
        waiting.cancel()
        process.stopping.set()
        await task
