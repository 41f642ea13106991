"""How a service of the server side runs: its logging, its metrics, its traces, uvloop, then its life."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import uvloop

from services.rpc.server import AddressInUseError
from services.runtime.collector import calm
from services.runtime.lifecycle import EXPLAINED, Serve, run
from services.runtime.logging import LogConfig, set_up_logging
from services.runtime.loop_lag import watching_lag
from services.runtime.metrics import MetricsConfig, serving_metrics
from services.runtime.process import Process
from services.runtime.readiness import Announcer
from services.runtime.telemetry.config import TracingConfig
from services.runtime.telemetry.pipeline import tracing as traced
from services.runtime.tls import TlsConfig

_NO_TLS: Final = TlsConfig()
_NO_TRACES: Final = TracingConfig()


def run_service(
    name: str,
    serve: Serve,
    *,
    home: Path,
    log: LogConfig,
    metrics: MetricsConfig,
    grace: float = 30.0,
    ready_fd: int | None = None,
    tls: TlsConfig = _NO_TLS,
    tracing: TracingConfig = _NO_TRACES,
) -> int:
    """Serves until told to stop, and gives the process's exit code.

    `metrics.port` is this process's own. `grace` is in seconds. `ready_fd` is an inherited pipe to announce on.
    """
    set_up_logging(name, log)
    with serving_metrics(metrics.host, metrics.port) as served, traced(tracing, home, name) as tracer:
        calm()  # after the last large import
        announcer = Announcer(home, ready_fd=ready_fd, metrics=served.address, tls=tls.directory)
        process = Process(home=home, ready=announcer.ready, grace=grace, tls=tls, tracer=tracer, metrics=served.page)

        async def measured(process: Process) -> None:
            async with watching_lag(process.metrics):
                await serve(process)

        return run(
            name,
            measured,
            announcer,
            process,
            loop_factory=uvloop.new_event_loop,
            explained=(*EXPLAINED, AddressInUseError),
        )
