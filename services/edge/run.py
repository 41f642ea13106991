"""One Envoy: started from its rendered configuration, kept supplied with the key, and ended without cutting a call."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp

from services.edge.admin import Admin
from services.edge.bootstrap import BOOTSTRAP, rendered
from services.edge.edge import Edge
from services.edge.sds import KEY_FILE, key_file
from services.edge.writing import texts, write
from services.runtime.child import START_TIMEOUT, Child, ChildError, ChildSpec, start_child
from services.runtime.home import log_file
from services.runtime.process import Process

log = logging.getLogger(__name__)

_POLL: Final = 0.05
_KEY_POLL: Final = 5.0
"""Seconds between two looks whether the service key was rotated."""
_FLUSH: Final = 1.0
"""Seconds that clients have to take the last bytes and close, when no call is open any more."""
_ENDING: Final = 5.0


async def serve(edge: Edge, program: Path, service_key: Callable[[], str], process: Process) -> None:
    """Runs Envoy until the process is asked to stop. Raises `ChildError` if Envoy ends by itself, or does not start."""
    shown = "" if edge.mesh_files is not None else service_key()
    _show(edge, shown)
    write(texts(rendered(edge)), edge.directory)
    (edge.home / edge.config.access_log).parent.mkdir(parents=True, exist_ok=True)
    envoy = await start_child(_spec(edge, program))
    died = asyncio.ensure_future(envoy.wait())
    keeping = asyncio.ensure_future(_keep_showing(edge, service_key, shown))
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as session:
            admin = Admin(session, edge.config.admin_address)
            await _until_ready(admin, envoy)
            process.ready("envoy", edge.config.https_address or edge.config.grpc_address)
            stopping = asyncio.ensure_future(process.stopping.wait())
            await asyncio.wait({stopping, died}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if died.done():
                await envoy.died()
            await drain(admin, edge.config.drain_s)
    finally:
        keeping.cancel()
        died.cancel()
        await asyncio.gather(keeping, died, return_exceptions=True)
        await envoy.stop(_ENDING)


async def drain(admin: Admin, within: float) -> None:
    """Lets open calls end, for `within` seconds. SIGTERM alone would cut them.

    Those who are connected are told first to go elsewhere; then nobody new is let in, or a busy Envoy would never
    have ended its calls.
    """
    try:
        async with asyncio.timeout(within):
            await admin.discourage()
            await admin.stop_listening()
            while await admin.open_calls():  # noqa: ASYNC110 the event is in another process
                await asyncio.sleep(_POLL)
    except TimeoutError:
        log.warning("calls were still open after 'envoy.drain_s' (%g s), and are cut", within)
        return
    except aiohttp.ClientError as error:
        log.warning("Envoy's administration does not answer, so that its calls are cut: %s", error)
        return
    try:
        async with asyncio.timeout(_FLUSH):
            while await admin.connections():  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
    except (TimeoutError, aiohttp.ClientError):
        return  # Idle ones, whose clients keep them.


def _spec(edge: Edge, program: Path) -> ChildSpec:
    # Not `--drain-time-s` alone: gradually, a client would be told to leave only now and then.
    flags = ["--drain-strategy", "immediate", "--drain-time-s", str(math.ceil(edge.config.drain_s))]
    flags += ["--disable-hot-restart", "--log-level", "warning", "--file-flush-interval-msec", "1000"]
    if edge.config.threads:
        flags += ["--concurrency", str(edge.config.threads)]
    command = (str(program), "--config-path", str(edge.directory / BOOTSTRAP), *flags)
    return ChildSpec("envoy", command, log_file(edge.home, "envoy"), announces=False)


async def _until_ready(admin: Admin, envoy: Child) -> None:
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while not await admin.ready():
                if not envoy.running:
                    await envoy.died()
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise ChildError(f"Envoy was not ready within {START_TIMEOUT:g} s: does auth run?\n{envoy.said}") from None


def _show(edge: Edge, key: str) -> None:
    """Writes the key that Envoy shows to auth, for its owner alone; there is none where it shows a certificate."""
    if key:
        write(texts({KEY_FILE: key_file(key)}), edge.directory, mode=0o600)


async def _keep_showing(edge: Edge, service_key: Callable[[], str], shown: str) -> None:
    """A rotated key is taken up without a restart, as all services do it; half-written ones, which are empty, are not:
    auth would refuse every call.
    """
    while edge.mesh_files is None:
        await asyncio.sleep(_KEY_POLL)
        try:
            if (key := service_key()) and key != shown:
                _show(edge, key)
                shown = key
        except OSError as error:
            log.warning("the service key cannot be read; Envoy shows the last one on: %s", error)
