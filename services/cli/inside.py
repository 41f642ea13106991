"""The services of a mesh in this very process: least latency, one small machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import ExitStack

from services.cli.settings import INSIDE, load
from services.runtime.collector import calm
from services.runtime.loop_lag import watching_lag
from services.runtime.metrics import MetricsConfig, serving_metrics
from services.runtime.process import Process
from services.runtime.readiness import Announcer
from services.runtime.telemetry.config import TracingConfig
from services.runtime.telemetry.pipeline import tracing
from services.runtime.tls import TlsConfig


class InsideServices:
    """The services in this process, for `weft up --one-process`; nothing otherwise."""

    def __init__(self, environ: Mapping[str, str], *, grace: float) -> None:
        self._environ = environ
        self._grace = grace
        self._announcer: Announcer | None = None
        self._process: Process | None = None
        self._serving: asyncio.Task[None] | None = None
        self._telemetry = ExitStack()

    async def start(self) -> None:
        """Starts all, and returns when all are ready. Raises what one of them raises."""
        from services.cli.one_process import serve_all  # all services, which other meshes start elsewhere

        config = load({**os.environ, **self._environ})
        tls = config.section("tls", TlsConfig)
        awaited = set(INSIDE)
        all_ready = asyncio.Event()

        def ready(service: str, address: str) -> None:
            announcer.ready(service, address)
            awaited.discard(service)
            if not awaited:
                all_ready.set()

        metrics = config.section("metrics", MetricsConfig)
        served = self._telemetry.enter_context(serving_metrics(metrics.host, metrics.port))
        traced = tracing(config.section("tracing", TracingConfig), config.home, "weft")
        tracer = self._telemetry.enter_context(traced)
        calm()  # after the last large import
        announcer = self._announcer = Announcer(config.home, metrics=served.address, tls=tls.directory)
        process = self._process = Process(
            home=config.home, ready=ready, grace=self._grace, tls=tls, tracer=tracer, metrics=served.page
        )

        async def measured() -> None:
            async with watching_lag(process.metrics):
                await serve_all(config.sections, process)

        self._serving = asyncio.ensure_future(measured())
        waiting = asyncio.ensure_future(all_ready.wait())
        await asyncio.wait({self._serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._serving.done():
            await self._serving

    async def ended(self) -> None:
        """Returns when the services end by themselves, or raises why they failed."""
        await (asyncio.shield(self._serving) if self._serving is not None else asyncio.Event().wait())

    async def stop(self) -> None:
        """Stops them in order."""
        if self._process is None or self._serving is None or self._announcer is None:
            return
        self._process.stopping.set()
        await asyncio.wait({self._serving}, timeout=self._grace)
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        self._announcer.withdraw()
        await asyncio.to_thread(self._telemetry.close)
