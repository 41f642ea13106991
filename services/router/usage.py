"""Usage records, put together: the log that calls write to, the spool on the disk, the sender."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
from weft.usage.v1 import usage_pb2_grpc

from services.router.config import UsageConfig
from services.router.usage_log import CallRecord, UsageLog
from services.router.usage_sender import UsageSender
from services.router.usage_spool import UsageSpool


class Usage:
    """Takes a record of every call to auth, by way of the disk.

    Raises OSError where the spool cannot be opened: a router that cannot account for its calls does not start.
    """

    def __init__(self, config: UsageConfig, home: Path, auth: grpc.aio.Channel, service_key: Callable[[], str]) -> None:
        spool = UsageSpool(home / "router" / "usage", most_bytes=config.spool_bytes)
        self._sender = UsageSender(spool, usage_pb2_grpc.UsageServiceStub(auth), service_key)
        self._log = UsageLog(
            spool, flush_s=config.flush_s, flush_records=config.flush_records, written=self._sender.wake
        )

    def start(self) -> None:
        """Begins to write and to send."""
        self._log.start()
        self._sender.start()

    def record(self, record: CallRecord) -> None:
        """Notes a call that has ended; see `UsageLog.record`."""
        self._log.record(record)

    async def finish(self) -> None:
        """No call is open any more: when this returns, all records are on the disk."""
        await self._log.close()

    async def close(self, within: float) -> None:
        """Gives auth `within` seconds to take what is left. After `finish`."""
        await self._sender.close(within)
