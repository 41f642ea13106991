"""The queues of clusters, as the launcher tells them: one question serves everybody who asks within some seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import grpc
from weft.launcher.v1 import launcher_pb2, launcher_pb2_grpc

from services.core.errors import Reason
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error

_TIMEOUT: Final = 60.0
"""A question to a cluster is a Globus task: it takes seconds, and longer where the service is slow."""
_AGE: Final = 10.0

Ask = Callable[[str], Awaitable[launcher_pb2.GetQueueResponse]]


def ask_launcher(channel: grpc.aio.Channel, key: Callable[[], str]) -> Ask:
    """Asks the launcher behind the channel. What it returns raises LAUNCHER_UNAVAILABLE, or whatever the launcher
    says.
    """
    stub = launcher_pb2_grpc.LauncherServiceStub(channel)

    async def ask(cluster: str) -> launcher_pb2.GetQueueResponse:
        request = launcher_pb2.GetQueueRequest(cluster=cluster)
        try:
            return await stub.GetQueue(request, metadata=bearer(key()), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            raise from_rpc_error(error, unavailable=Reason.LAUNCHER_UNAVAILABLE) from error

    return ask


@dataclass(frozen=True, slots=True)
class _Asked:
    at: float
    answer: asyncio.Task[launcher_pb2.GetQueueResponse]


class Queues:
    """Answers from memory what was asked within the last seconds; an error is an answer too."""

    def __init__(self, ask: Ask, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._asked: dict[str, _Asked] = {}

    async def of(self, cluster: str) -> launcher_pb2.GetQueueResponse:
        """The queue of a cluster, by its resource name. Raises `ServiceError`."""
        now = self._clock()
        self._asked = {
            name: asked for name, asked in self._asked.items() if not asked.answer.done() or now < asked.at + _AGE
        }
        asked = self._asked.get(cluster)
        if asked is None:
            task = asyncio.ensure_future(self._ask(cluster))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whether or not one still waits
            asked = self._asked[cluster] = _Asked(now, task)
        # Shielded: the question is shared, and one caller who leaves must not end it for the others.
        return await asyncio.shield(asked.answer)

    async def close(self) -> None:
        """Ends what is under way."""
        for asked in self._asked.values():
            asked.answer.cancel()
        await asyncio.gather(*(asked.answer for asked in self._asked.values()), return_exceptions=True)
