"""The endpoints' states at hand, and how those who watch hear of changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

from services.launcher.states import EndpointState

HEARTBEAT: Final = 5.0
"""Seconds of silence after which a watcher is given an empty message."""


@dataclass(frozen=True, slots=True)
class News:
    """What a watcher is told: endpoints as they are now, and those that are no more. Empty as a sign of life."""

    endpoints: tuple[EndpointState, ...] = ()
    gone: tuple[str, ...] = ()


class _Watcher:
    def __init__(self) -> None:
        self.changed: set[str] = set()  # names, so that one who reads slowly is told of each endpoint once
        self.arrived = asyncio.Event()


class Board:
    """The endpoints' states, and who watches them."""

    def __init__(self, *, heartbeat: float = HEARTBEAT) -> None:
        self._heartbeat = heartbeat
        self._states: dict[str, EndpointState] = {}
        self._watchers: set[_Watcher] = set()
        self._known = asyncio.Event()
        self._closed = False

    def get(self, endpoint: str) -> EndpointState | None:
        """How an endpoint is; None for one that no workers are started for, or that was made a moment ago."""
        return self._states.get(endpoint)

    def publish(self, states: Mapping[str, EndpointState]) -> None:
        """All endpoints as they are now; the watchers hear what has changed."""
        both = states.keys() | self._states.keys()
        changed = {name for name in both if states.get(name) != self._states.get(name)}
        self._states = dict(states)
        self._known.set()
        if changed:
            for watcher in self._watchers:
                watcher.changed |= changed
                watcher.arrived.set()

    async def watch(self) -> AsyncIterator[News]:
        """All endpoints, once they are known, then every change, until the board closes."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            while not self._known.is_set() and not self._closed:
                if not await self._within(self._known):
                    yield News()
            watcher.changed.clear()
            yield News(tuple(self._states.values()))
            while not self._closed:
                if not await self._within(watcher.arrived):
                    yield News()
                    continue
                watcher.arrived.clear()
                changed, watcher.changed = watcher.changed, set()
                present = tuple(self._states[name] for name in sorted(changed) if name in self._states)
                yield News(present, tuple(sorted(changed - self._states.keys())))
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """Ends every watch, so that the server need not wait for them."""
        self._closed = True
        self._known.set()
        for watcher in self._watchers:
            watcher.arrived.set()

    async def _within(self, event: asyncio.Event) -> bool:
        try:
            async with asyncio.timeout(self._heartbeat):
                return await event.wait()
        except TimeoutError:
            return False
