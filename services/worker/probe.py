"""Watches a vLLM: does it answer, what does it serve, how busy is it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
from weft.session.v1 import frame_pb2

from services.core.errors import Reason, ServiceError
from services.upstream.http import base_of
from services.worker.load import parse_load

log = logging.getLogger(__name__)

_STARTING_INTERVAL = 0.1
_MODELS_EVERY = 15
_GONE_AFTER = 2
"""Looks in a row that found nobody listening, or an engine that is dead. Silence is no such finding: a vLLM that is
short of processor time still has its calls.
"""


class Probe:
    """Keeps `report` current, and calls `changed` after each look. `max_calls` is what the worker takes at once.

    `gone` is called, with the error for the calls that are open, when vLLM has gone: told to stop, it closes its port
    at once, and may keep the connections that it has open, and silent, for minutes. `progress` tells what vLLM is doing
    while it starts, and may tell nothing.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        interval: float,
        max_calls: int,
        changed: Callable[[frame_pb2.Report], None],
        gone: Callable[[ServiceError], None],
        progress: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self._session = session
        self._base = base_of(url)
        self._url = url
        self._interval = interval
        self._changed = changed
        self._gone = gone
        self._progress = progress
        self._looks = 0
        self._absences = 0
        self.report = frame_pb2.Report(
            state=frame_pb2.WORKER_STATE_STARTING,
            detail=f"waiting for vLLM at {url} to answer",
            max_calls=max_calls,
        )

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            before = self.report.state
            await self._look()
            if self.report.state != before:
                log.info("vLLM: %s", self.report.detail)
            starting = self.report.state == frame_pb2.WORKER_STATE_STARTING
            if starting and self._progress is not None:
                # Never once it serves: its log may then hold what it was asked.
                self.report.detail = await self._progress() or self.report.detail
            self._changed(self.report)
            await asyncio.sleep(min(_STARTING_INTERVAL, self._interval) if starting else self._interval)

    async def _look(self) -> None:
        ready = self.report.state == frame_pb2.WORKER_STATE_READY
        try:
            if (status := await self._status("/health")) != 200:
                self._unwell(f"vLLM at {self._url} answers its health check with {status}")
                self._missed()
                return
            self._absences = 0
            if not ready or self._looks % _MODELS_EVERY == 0:
                models = await self._models()
                del self.report.models[:]
                self.report.models.extend(models)
            self.report.load.CopyFrom(parse_load(await self._text("/metrics")))
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
            self._unwell(f"vLLM at {self._url} does not answer: {error or type(error).__name__}")
            if _nobody_listens(error):
                self._missed()
            return
        self._looks += 1
        self.report.state = frame_pb2.WORKER_STATE_READY
        self.report.detail = f"vLLM at {self._url} serves {', '.join(model.id for model in self.report.models)}"

    def _unwell(self, detail: str) -> None:
        if self.report.state == frame_pb2.WORKER_STATE_READY:
            self.report.state = frame_pb2.WORKER_STATE_UNHEALTHY
        self.report.detail = detail

    def _missed(self) -> None:
        self._absences += 1
        if self._absences == _GONE_AFTER:
            self._gone(ServiceError(Reason.UPSTREAM_BROKEN, "vLLM went away before its answer was whole."))

    async def _models(self) -> list[frame_pb2.ServedModel]:
        cards: list[dict[str, Any]] = msgspec.json.decode(await self._text("/v1/models"))["data"]
        return [frame_pb2.ServedModel(id=card["id"], card_json=msgspec.json.encode(card).decode()) for card in cards]

    async def _status(self, path: str) -> int:
        async with self._session.get(self._base + path, timeout=aiohttp.ClientTimeout(total=5)) as response:
            await response.read()
            return response.status

    async def _text(self, path: str) -> str:
        async with self._session.get(self._base + path, timeout=aiohttp.ClientTimeout(total=10)) as response:
            response.raise_for_status()
            return await response.text()


def _nobody_listens(error: Exception) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, ConnectionRefusedError | FileNotFoundError
    )
