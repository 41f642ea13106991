"""Takes usage records from the spool to auth, as fast as auth takes them and for as long as it is away."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from typing import Final

import grpc
from weft.usage.v1 import usage_pb2, usage_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.router.usage_log import CallRecord
from services.router.usage_messages import to_proto
from services.router.usage_metrics import DROPPED, SENT
from services.router.usage_spool import Batch, UsageSpool
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error

log = logging.getLogger(__name__)

_BATCH: Final = 1000
_TIMEOUT: Final = 30.0
_FIRST_BACKOFF: Final = 0.5
_LONGEST_BACKOFF: Final = 15.0
_LOOK: Final = 60.0
"""Seconds between two looks for what other routers have left."""


class _Outcome(enum.Enum):
    KEPT = "kept"
    REFUSED = "refused"
    """For what the records say: they will never be taken."""
    AWAY = "away"


class UsageSender:
    """Sends what the spool holds. `wake` says that it holds more."""

    def __init__(
        self, spool: UsageSpool, auth: usage_pb2_grpc.UsageServiceStub, service_key: Callable[[], str]
    ) -> None:
        self._spool = spool
        self._auth = auth
        self._service_key = service_key
        self._more = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._said = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to send."""
        self._task = self._loop.create_task(self._run())

    def wake(self) -> None:
        """The spool holds more; from any thread."""
        self._loop.call_soon_threadsafe(self._more.set)

    async def close(self, within: float) -> None:
        """Sends what is left, for `within` seconds at most; the rest stays for the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(within):
                await self._send_all()
        except TimeoutError:
            log.warning("auth has not taken all usage records; they are sent at the next start")
        await asyncio.to_thread(self._spool.close)

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._spool.adopt)
                await self._send_all(forever=True)
            except OSError as error:
                log.error("usage records cannot be read: %s", error)
            except Exception:  # a fault of ours; records go on to the disk, and must not wait there for a restart
                log.exception("usage records are sent later, as something unexpected went wrong")
            self._more.clear()
            try:
                async with asyncio.timeout(_LOOK):
                    await self._more.wait()
            except TimeoutError:
                continue

    async def _send_all(self, *, forever: bool = False) -> None:
        """Sends until the spool is empty, or, unless `forever`, auth has failed."""
        backoff = _FIRST_BACKOFF
        while (batch := await asyncio.to_thread(self._spool.next, _BATCH)) is not None:
            if await self._send(batch):
                backoff = _FIRST_BACKOFF
            elif forever:
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, _LONGEST_BACKOFF)
            else:
                return

    async def _send(self, batch: Batch) -> bool:
        """Whether the batch is done with."""
        for records in (batch.records, *([record] for record in batch.records)):
            outcome = await self._record(records)
            if outcome is _Outcome.AWAY:
                return False
            if outcome is _Outcome.KEPT and records is batch.records:
                break  # else one of them is at fault: the others are not to wait behind it for ever
            if outcome is _Outcome.REFUSED and records is not batch.records:
                DROPPED.labels("refused").inc()
        await asyncio.to_thread(self._spool.done, batch)
        return True

    async def _record(self, records: list[CallRecord]) -> _Outcome:
        if not records:
            return _Outcome.KEPT
        try:
            request = usage_pb2.RecordCallsRequest(records=map(to_proto, records))
        except (TypeError, ValueError) as error:  # no message can hold it: a fault of ours, and nobody's to wait for
            log.error("a usage record cannot be sent: %s", error)
            return _Outcome.REFUSED
        try:
            await self._auth.RecordCalls(request, metadata=bearer(self._service_key()), timeout=_TIMEOUT)
        except (grpc.aio.AioRpcError, OSError) as error:
            explained = (
                from_rpc_error(error, unavailable=Reason.AUTH_UNAVAILABLE)
                if isinstance(error, grpc.RpcError)
                else error
            )
            if self._said != (said := str(explained)):
                log.warning("auth does not take usage records: %s", said)
                self._said = said
            refused = isinstance(explained, ServiceError) and explained.reason is Reason.ARGUMENT_INVALID
            return _Outcome.REFUSED if refused else _Outcome.AWAY
        self._said = ""
        SENT.inc(len(records))
        return _Outcome.KEPT
