"""Whether Globus Compute endpoints are online: asked gently, and remembered for all who want to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.globus.errors import GlobusError
from services.launcher.tasks import TaskRunner

_REMEMBERED: Final = 30.0


@dataclass(frozen=True, slots=True)
class Health:
    """Whether tasks can be sent to an endpoint at present, and why not."""

    online: bool
    detail: str = ""


class Statuses:
    """The health of endpoints, each asked for at most twice a minute."""

    def __init__(self, source: TaskRunner, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, asyncio.Future[Health]]] = {}

    async def health(self, credentials: str, endpoint_uuid: str) -> Health:
        """How an endpoint is, as it was told within the last half minute."""
        key = (credentials, endpoint_uuid)
        known = self._known.get(key)
        if known is None or self._clock() - known[0] >= _REMEMBERED:
            answer = asyncio.ensure_future(self._ask(credentials, endpoint_uuid))
            known = self._known[key] = (self._clock(), answer)
        return await asyncio.shield(known[1])

    async def _ask(self, credentials: str, endpoint_uuid: str) -> Health:
        try:
            status = await self._source.endpoint_status(credentials, endpoint_uuid)
        except GlobusError as error:
            return Health(online=False, detail=error.sentence)
        return Health(status.online, "" if status.online else "its Globus Compute endpoint is offline")
