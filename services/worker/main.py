"""The worker, put together: vLLM (launched or attached), the probe that watches it, a session to each router."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import secrets
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from weft.session.v1 import frame_pb2

from services.core.errors import Reason, ServiceError
from services.rpc.limits import MuxLimits
from services.upstream.http import HttpInference, open_session
from services.worker.attachment import Attachment
from services.worker.config import WorkerConfig
from services.worker.launch import Launcher
from services.worker.probe import Probe

log = logging.getLogger(__name__)

AGENT = f"weft-worker/{importlib.metadata.version('weft')}"


async def serve(config: WorkerConfig, stopping: asyncio.Event) -> None:
    """Runs a worker until `stopping`. Raises `ServiceError` or `OSError` if it cannot begin, with a sentence that says
    why.
    """
    http = open_session(config.vllm_url)
    vllm = HttpInference(http, config.vllm_url, what="vLLM", bounds=config.bounds)
    attachments: list[Attachment] = []

    def tell_routers(report: frame_pb2.Report) -> None:
        for attachment in attachments:
            attachment.send_report()

    probe = Probe(
        http,
        config.vllm_url,
        interval=config.report_interval,
        max_calls=config.max_calls,
        changed=tell_routers,
        gone=vllm.end_calls,
    )
    instance = secrets.token_hex(8)
    attachments += [
        Attachment(
            router,
            endpoint=config.endpoint,
            instance=instance,
            key=_key_reader(config.key_file),
            agent=AGENT,
            inference=vllm,
            limits=MuxLimits(max_calls=config.max_calls),
            report=lambda: probe.report,
        )
        for router in config.routers
    ]
    work: list[Coroutine[Any, Any, object]] = [probe.run(), *(attachment.run() for attachment in attachments)]
    if config.vllm_command:
        work.append(Launcher(config.vllm_command, config.vllm_log, grace=config.grace).run())
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(part) for part in work]
    stop = loop.create_task(stopping.wait())
    try:
        await asyncio.wait((stop, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # Parts run until cancelled; one that ended has failed, and this raises why.
        await _drain(attachments, config.grace)
    finally:
        for task in (stop, *tasks):
            task.cancel()
        await asyncio.gather(stop, *tasks, return_exceptions=True)
        await vllm.close()


async def _drain(attachments: list[Attachment], grace: float) -> None:
    """Lets the open calls finish, then leaves the routers."""
    log.info("draining: no new calls; open ones have %.0f s", grace)
    for attachment in attachments:
        attachment.drain(grace)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await asyncio.gather(*(attachment.settle() for attachment in attachments))
    await asyncio.gather(*(attachment.leave() for attachment in attachments))


def _key_reader(path: Path) -> Callable[[], str]:
    """Reads the key anew at each enrolment, so that a rotated one is taken up without a restart."""

    def read() -> str:
        try:
            return path.read_text().strip()
        except OSError as error:
            message = f"The worker's key cannot be read from {path}: {error.strerror}."
            raise ServiceError(Reason.CREDENTIAL_MISSING, message) from error

    return read
