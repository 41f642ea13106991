"""Tells everybody who watches what has changed.

The hub compares what it knows with the database after each change of ours, and every second for those of another
registry on the same database: one way for both, and a burst of changes becomes one message.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Final

from weft.registry.v1 import registry_pb2

from services.core.errors import Reason, ServiceError
from services.registry.store import Snapshot, Store
from services.registry.tables import CLUSTER, ENDPOINT, KINDS, ROUTE, kind_of

log = logging.getLogger(__name__)

HEARTBEAT: Final = 5.0
"""Seconds of silence after which a watcher is told that nothing has happened: it takes us for dead after 15."""
POLL: Final = 1.0
"""Seconds between two looks for changes that another registry made."""
BACKLOG: Final = 16
"""Messages that wait for a watcher; one that falls further behind gets the whole catalogue in their place."""


class _Backlog:
    """What waits for one watcher."""

    def __init__(self) -> None:
        self.messages: deque[registry_pb2.WatchResponse] = deque()
        self.behind = False
        self.arrived = asyncio.Event()

    def put(self, message: registry_pb2.WatchResponse) -> None:
        if len(self.messages) == BACKLOG:
            self.messages.clear()
            self.behind = True
        if not self.behind:
            self.messages.append(message)
        self.arrived.set()


class Hub:
    """Knows the present catalogue and who watches it."""

    def __init__(self, store: Store, *, heartbeat: float = HEARTBEAT, poll: float = POLL) -> None:
        self._store = store
        self._heartbeat = heartbeat
        self._poll = poll
        self._known = Snapshot("", {})
        self._backlogs: set[_Backlog] = set()
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._backlogs)

    @property
    def version(self) -> int:
        """The number of the present revision, without the database's incarnation; 0 before it is known."""
        return int(self._known.revision.rpartition(".")[2] or 0)

    @property
    def sizes(self) -> dict[str, int]:
        """How much there is of each kind, by its noun. May be read by any thread."""
        counts = Counter(kind_of(name).noun for name in self._known.contents)
        return {kind.noun: counts[kind.noun] for kind in KINDS}

    def wake(self) -> None:
        """Something has changed: look at once."""
        self._wake.set()

    async def run(self) -> None:
        """Looks for changes until cancelled."""
        away = False
        while True:
            self._wake.clear()
            try:
                await self.refresh()
                away = False
            except ServiceError as error:
                if not away:
                    log.warning("cannot look for changes: %s", error)
                away = True
            try:
                async with asyncio.timeout(self._poll):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def refresh(self) -> None:
        """Takes up what has changed, and tells the watchers. Raises REGISTRY_UNAVAILABLE without the database."""
        if await self._store.revision() == self._known.revision:
            return
        fresh = await self._store.snapshot()
        message = registry_pb2.WatchResponse(revision=fresh.revision, changes=_changes(self._known, fresh))
        self._known = fresh
        for backlog in self._backlogs:
            backlog.put(message)

    async def watch(self, revision: str) -> AsyncIterator[registry_pb2.WatchResponse]:
        """What a watcher who has seen `revision` is told, until the hub closes. Raises REGISTRY_UNAVAILABLE as long as
        the catalogue is not known.
        """
        if not self._known.revision:
            # An empty catalogue would be taken for the truth.
            raise ServiceError(Reason.REGISTRY_UNAVAILABLE, "The registry waits for its database; try again shortly.")
        backlog = _Backlog()
        self._backlogs.add(backlog)
        try:
            yield self._nothing_new() if revision == self._known.revision else self._whole()
            while not self._closed:
                try:
                    async with asyncio.timeout(self._heartbeat):
                        await backlog.arrived.wait()
                except TimeoutError:
                    yield self._nothing_new()
                    continue
                backlog.arrived.clear()
                if backlog.behind:
                    backlog.behind = False
                    yield self._whole()
                while backlog.messages:
                    yield backlog.messages.popleft()
        finally:
            self._backlogs.discard(backlog)

    def close(self) -> None:
        """Ends every watch, so that the server need not wait for them."""
        self._closed = True
        for backlog in self._backlogs:
            backlog.arrived.set()

    def _nothing_new(self) -> registry_pb2.WatchResponse:
        return registry_pb2.WatchResponse(revision=self._known.revision)

    def _whole(self) -> registry_pb2.WatchResponse:
        message = registry_pb2.WatchResponse(revision=self._known.revision)
        message.snapshot.SetInParent()
        for name, content in self._known.contents.items():
            change = _change(name, content)
            match change.WhichOneof("kind"):
                case "cluster":
                    message.snapshot.clusters.append(change.cluster)
                case "endpoint":
                    message.snapshot.endpoints.append(change.endpoint)
                case "route":
                    message.snapshot.routes.append(change.route)
                case "function":
                    message.snapshot.functions.append(change.function)
        return message


def _changes(before: Snapshot, after: Snapshot) -> list[registry_pb2.Change]:
    gone = (registry_pb2.Change(deleted=name) for name in before.contents if name not in after.contents)
    fresh = (_change(name, content) for name, content in after.contents.items() if before.contents.get(name) != content)
    return [*gone, *fresh]


def _change(name: str, content: bytes) -> registry_pb2.Change:
    kind = kind_of(name)
    change = registry_pb2.Change()
    if kind is CLUSTER:
        change.cluster.MergeFromString(content)
    elif kind is ENDPOINT:
        change.endpoint.MergeFromString(content)
    elif kind is ROUTE:
        change.route.MergeFromString(content)
    else:
        change.function.MergeFromString(content)
    return change
