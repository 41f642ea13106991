"""`python -m tests.globus.service --port 5000 --amqp amqp://… --state FILE`: see README.md."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from pathlib import Path

from aiohttp import web

from services.runtime.readiness import Ready
from tests.globus.service.app import Service


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT; ready when RabbitMQ is connected."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    service = Service(arguments.state, arguments.amqp)
    runner = web.AppRunner(service.app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", arguments.port, reuse_address=True).start()
        async with asyncio.timeout(30):
            await service.broker.connected.wait()
        if arguments.ready_fd is not None:
            ready = Ready("globus", f"127.0.0.1:{arguments.port}", os.getpid())
            os.write(arguments.ready_fd, f"{ready.to_json()}\n".encode())
            os.close(arguments.ready_fd)
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.globus.service", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="on 127.0.0.1")
    parser.add_argument("--amqp", required=True, help="URL of RabbitMQ; clients and endpoints are given the same")
    parser.add_argument("--state", type=Path, required=True, help="file that the state is kept in")
    parser.add_argument("--ready-fd", type=int, help="descriptor on which to announce readiness")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
