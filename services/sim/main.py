"""The simulated vLLM as a server: listen, answer, drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial

import uvloop

from services.sim.config import SimConfig
from services.sim.engine import Engine
from services.sim.faults import Faults
from services.sim.http import Connection, Connections
from services.sim.routes import Routes

_BACKLOG = 4096


async def serve(config: SimConfig, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Serves until `stop` is set, then lets open calls finish for up to `grace_s` seconds.

    `ready` is given the address: `http://HOST:PORT`, or `unix:PATH`. Raises OSError when the address cannot be had.
    """
    loop = asyncio.get_running_loop()
    engine = Engine(config, loop)
    routes = Routes(config, engine, Faults(config.faults))
    connections = Connections()
    protocol = partial(Connection, routes.handle, connections)
    if config.uds:
        server = await loop.create_unix_server(protocol, config.uds, backlog=_BACKLOG)
        ready(f"unix:{config.uds}")
    else:
        server = await loop.create_server(protocol, config.host, config.port, backlog=_BACKLOG)
        ready(f"http://{config.host}:{server.sockets[0].getsockname()[1]}")
    await stop.wait()
    server.close()
    await connections.drain(config.grace_s)


def run(config: SimConfig) -> None:
    """Serves in this process until SIGTERM or SIGINT, and prints the address that it listens on."""
    uvloop.run(_serve_until_signal(config))


async def _serve_until_signal(config: SimConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(config, ready=lambda address: print(address, flush=True), stop=stop)
