"""Auth, registry, router and facade in one process, on one loop; the facade hands its calls to the router directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from services.auth.main import serve as serve_auth
from services.facade.main import serve_http
from services.registry.main import serve as serve_registry
from services.router.main import running
from services.rpc.channel import dial
from services.rpc.server import check_health
from services.runtime.process import Process

Serve = Callable[[Process], Awaitable[None]]


async def serve_all(configs: Mapping[str, Any], process: Process) -> None:
    """Serves all until `process.stopping`; each starts when those that it needs are ready, and stops before them.

    Raises what any of them raises, after the others have stopped.
    """
    parts: list[Serve] = [
        partial(serve_auth, configs["auth"]),
        partial(serve_registry, configs["registry"]),
        partial(_serve_router_and_facade, configs["router"], configs["facade"]),
    ]
    async with AsyncExitStack() as started:
        tasks: list[asyncio.Future[Any]] = [
            await started.enter_async_context(_started(serve, process)) for serve in parts
        ]
        asked = asyncio.ensure_future(process.stopping.wait())
        await asyncio.wait([asked, *tasks], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()


async def _serve_router_and_facade(router_config: Any, facade_config: Any, process: Process) -> None:
    async with running(router_config, process) as router, dial(router.address) as channel:
        process.ready("router", router.address)
        ready = partial(check_health, channel, "", timeout=2.0)
        await serve_http(facade_config, process, router.gateway, ready)


@asynccontextmanager
async def _started(serve: Serve, outer: Process) -> AsyncIterator[asyncio.Future[None]]:
    """A part that is ready in the body of the `async with`, and is stopped after it."""
    is_ready = asyncio.Event()

    def ready(service: str, address: str) -> None:
        outer.ready(service, address)
        is_ready.set()

    process = Process(home=outer.home, ready=ready, grace=outer.grace)
    task = asyncio.ensure_future(serve(process))
    waiting = asyncio.ensure_future(is_ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()  # raises why it could not start
        yield task
    finally:
        waiting.cancel()
        process.stopping.set()
        await task
