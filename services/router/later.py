"""An answer that takes a while to make, as a `Call`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.core.answers import ReadyAnswer
from services.core.errors import Reason, ServiceError
from services.core.inference import Head, Receiver

log = logging.getLogger(__name__)


class LaterAnswer:
    """Tells the JSON body that `make` gives, or its `ServiceError`. Leaving ends the making."""

    def __init__(self, make: Callable[[], Awaitable[bytes]], receiver: Receiver, credit: int) -> None:
        self._receiver = receiver
        self._credit = credit
        self._ready: ReadyAnswer | None = None
        self._task = asyncio.get_running_loop().create_task(self._make(make))

    async def _make(self, make: Callable[[], Awaitable[bytes]]) -> None:
        answer: tuple[Head, bytes] | ServiceError
        try:
            body = await make()
            answer = Head(200, (("content-type", "application/json"), ("content-length", str(len(body))))), body
        except ServiceError as error:
            answer = error
        except Exception:
            log.exception("an unexpected error ended a call")
            answer = ServiceError(Reason.INTERNAL)
        self._ready = ReadyAnswer(answer, self._receiver, self._credit)
        self._ready.tell()

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        if self._ready is not None:
            self._ready.grant(credit)
        else:
            self._credit += credit

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._task.cancel()
        if self._ready is not None:
            self._ready.cancel()
