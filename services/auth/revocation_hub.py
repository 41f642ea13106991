"""Tells those who watch what is revoked, by this auth or another on the same database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from weft.auth.v1 import auth_pb2

from services.auth.revocations import RevocationStore
from services.core.errors import ServiceError
from services.rpc.revocations import revocation_to_proto

log = logging.getLogger(__name__)

HEARTBEAT: Final = 5.0
"""Seconds of silence after which a watcher is told that nothing has happened: it takes us for dead after 15."""
POLL: Final = 1.0
"""Seconds between two looks for what another auth has revoked."""
BATCH: Final = 1000
"""Revocations in one message."""


class RevocationHub:
    """Wakes those who watch. Each reads the list for itself, so that none waits for a slower one."""

    def __init__(self, store: RevocationStore, *, heartbeat: float = HEARTBEAT, poll: float = POLL) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._poll = poll
        self._newest = 0
        self._wake = asyncio.Event()
        self._watchers: set[asyncio.Event] = set()
        self._closed = False

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def wake(self) -> None:
        """Something was revoked here: tell it at once."""
        self._wake.set()

    async def run(self) -> None:
        """Looks for revocations until cancelled."""
        away = False
        while True:
            self._wake.clear()
            try:
                newest = await self._store.newest()
                away = False
                if newest != self._newest:
                    self._newest = newest
                    self._rouse()
            except ServiceError as error:
                if not away:
                    log.warning("cannot look for revocations: %s", error)
                away = True
            try:
                async with asyncio.timeout(self._poll):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def watch(self, revision: int) -> AsyncIterator[auth_pb2.WatchRevocationsResponse]:
        """What a watcher who has seen `revision` is told, until the hub closes. Raises AUTH_UNAVAILABLE."""
        woken = asyncio.Event()
        self._watchers.add(woken)
        try:
            reset = not await self._store.knows(revision)
            at = 0 if reset else revision
            while not self._closed:
                woken.clear()
                batch = await self._store.after(at, limit=BATCH)
                at = batch[-1].revision if batch else at
                told = [revocation_to_proto(one.revocation) for one in batch if one.revocation is not None]
                yield auth_pb2.WatchRevocationsResponse(revision=at, reset=reset, revocations=told)
                reset = False
                if len(batch) < BATCH:
                    await self._pause(woken)
        finally:
            self._watchers.discard(woken)

    def close(self) -> None:
        """Ends every watch, so that the server need not wait for them."""
        self._closed = True
        self._rouse()

    def _rouse(self) -> None:
        for woken in self._watchers:
            woken.set()

    async def _pause(self, woken: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._heartbeat):
                await woken.wait()
        except TimeoutError:
            return
