"""Owns child processes: starts them, restarts those that die, stops them in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from services.runtime.child import Child, ChildSpec, describe_exit, start_child
from services.runtime.lifecycle import SLACK
from services.runtime.readiness import Ready

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
STEADY_AFTER = 60.0
"""Seconds; a child that lived so long is restarted with the first backoff again."""


class Supervisor:
    """Children that live as long as the `async with` around it. They are stopped one by one, the last started first.

    `tell` is given a sentence when a child ends unasked, and when it is back.
    """

    def __init__(self, *, grace: float, tell: Callable[[str], None]) -> None:
        self._grace = grace
        self._tell = tell
        self._children: dict[str, Child] = {}
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, spec: ChildSpec) -> Child:
        """Starts a child, and returns when its process runs; `Child.ready` tells the rest."""
        child = self._children[spec.name] = await start_child(spec)
        return child

    async def start_ready(self, *specs: ChildSpec) -> list[Ready]:
        """Starts children side by side, and returns when all are ready. Raises `ChildError` if one fails."""
        children = [await self.start(spec) for spec in specs]
        return list(await asyncio.gather(*(child.ready() for child in children)))

    def keep(self) -> None:
        """From now on, a child that dies is started again."""
        for child in self._children.values():
            self._keepers.append(asyncio.ensure_future(self._keep(child)))

    async def stop(self) -> None:
        """Stops every child, the last started first."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()
        while self._children:
            _, child = self._children.popitem()
            await child.stop(self._grace + SLACK)  # It has its own grace: killed just then, it could not say goodbye.

    def kill(self) -> None:
        """Ends every child at once, and waits for none."""
        for child in self._children.values():
            child.kill()

    async def _keep(self, child: Child) -> None:
        clock = asyncio.get_running_loop().time
        backoff = FIRST_BACKOFF
        while True:
            started = clock()
            code = await child.wait()
            if clock() - started > STEADY_AFTER:
                backoff = FIRST_BACKOFF
            self._tell(
                f"{child.spec.name} ended with {describe_exit(code)}; restarting it in {backoff:g} s "
                f"(its log: {child.spec.log_file})"
            )
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF)
            child = self._children[child.spec.name] = await start_child(child.spec)
            self._tell(f"{child.spec.name} runs again")
