"""Auth, registry, router and facade in one process, on one loop. The facade hands its calls to the router directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from services.auth import main as auth
from services.facade import main as facade
from services.registry import main as registry
from services.router import main as router
from services.runtime.process import Process

Serve = Callable[[Process], Awaitable[None]]


async def serve_all(configs: Mapping[str, Any], process: Process) -> None:
    """Serves all until `process.stopping`. Raises what any of them raises, after the others have stopped.

    Each starts when those that it needs are ready; they stop the other way round.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        tasks: list[asyncio.Future[Any]] = [
            await enter(_serving("auth", lambda inner: auth.serve(configs["auth"], inner), process)),
            await enter(_serving("registry", lambda inner: registry.serve(configs["registry"], inner), process)),
        ]
        running = await enter(router.running(configs["router"], process))
        process.ready("router", running.address)

        def serve_facade(inner: Process) -> Awaitable[None]:
            return facade.serve_http(configs["facade"], inner, running.gateway.behind_facades, running.ready)

        tasks.append(await enter(_serving("facade", serve_facade, process)))
        asked = asyncio.ensure_future(process.stopping.wait())
        try:
            await asyncio.wait((asked, *tasks), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()


@asynccontextmanager
async def _serving(service: str, serve: Serve, outer: Process) -> AsyncIterator[asyncio.Future[None]]:
    """One service, ready in the body of the `async with`, and stopped after it."""
    is_ready = asyncio.Event()

    def ready(name: str, address: str) -> None:
        outer.ready(name, address)
        is_ready.set()

    process = replace(outer, ready=ready, stopping=asyncio.Event())
    task = asyncio.ensure_future(serve(process))
    waiting = asyncio.ensure_future(is_ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not is_ready.is_set():
            await task  # raises why
            raise RuntimeError(f"{service} ended before it was ready")
        yield task
    finally:
        waiting.cancel()
        process.stopping.set()
        await task
