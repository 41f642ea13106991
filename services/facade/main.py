"""The facade, put together."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterator

import uvicorn

from services.core.inference import Inference
from services.facade.app import App, AppSettings
from services.facade.config import FacadeConfig
from services.facade.guard import GuardSettings, guarded
from services.facade.https import https_context
from services.facade.listener import listen
from services.facade.metrics import Responses, show_facade, show_link
from services.facade.router_link import RouterLink
from services.runtime.process import Process


async def serve(config: FacadeConfig, process: Process) -> None:
    """Runs the facade in front of a router elsewhere, until it is asked to stop."""
    wire = process.tls.wire("facade", process.home)
    router = RouterLink(config.router_address, patience=config.wait_for_router_s, wire=wire)
    show_link(process.metrics, lambda: router.mux is not None)
    keeping = asyncio.get_running_loop().create_task(router.run())
    try:
        await serve_http(config, process, router, router.ready)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await router.close()


async def serve_http(
    config: FacadeConfig, process: Process, inference: Inference, ready: Callable[[], Awaitable[bool]]
) -> None:
    """Runs the facade in front of any inference, such as a router in the same process, until it is asked to stop."""
    settings = AppSettings(
        max_body=config.max_body_bytes,
        max_arriving=config.max_arriving_bytes,
        call_window=config.call_window_bytes,
        window_budget=config.window_budget_bytes,
    )
    responses = Responses() if process.metrics is not None else None
    app = App(inference, ready, settings, process.tracer, responses)
    guard = GuardSettings(config.header_timeout_s, config.body_timeout_s, config.max_header_bytes)
    https = config.https(process.home)
    context = None if https is None else https_context(https)
    listener = listen(config.host, config.port)
    settled = uvicorn.Config(
        app,
        http=guarded(guard),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(config.keep_alive_s),
        # Later than we end the calls ourselves: uvicorn cuts connections without a word.
        timeout_graceful_shutdown=math.ceil(process.grace) + 1,
    )
    settled.load()
    settled.ssl = context
    server = _Server(settled)
    if process.metrics is not None and responses is not None:
        show_facade(process.metrics, responses, app, lambda: len(server.server_state.connections))
    serving = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
    host, port = listener.getsockname()[:2]
    process.ready("facade", f"{host}:{port}")
    stopping = asyncio.get_running_loop().create_task(process.stopping.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    ends = time.monotonic() + process.grace
    await app.leave(process.grace)
    server.should_exit = True
    await asyncio.wait((serving,), timeout=max(0.0, ends - time.monotonic()))
    app.end_calls()
    await serving


class _Server(uvicorn.Server):
    """uvicorn, leaving signals to the process that it runs in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield
