"""Balancers in front of a server: known by how they ask for its health, and to be told before it refuses anything."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from grpc_health.v1 import health

_AGENTS: Final = ("Envoy/HC",)
"""The user agents of health checks by whom calls are sent elsewhere when the answer is NOT_SERVING."""
_GONE: Final = 3.0
"""Seconds of silence after which a balancer is away; the rendered Envoy asks each second."""
_TOLD: Final = 2
"""Who has asked so often has surely read the first of the answers, and Envoy needs no second one: `unhealthy_threshold`
is for checks that fail on their way.
"""
_FAREWELL: Final = 5.0
"""Seconds that balancers have to read that a server leaves; a busy one may be late with its checks."""
_MOST: Final = 64
"""Balancers that are noted: whoever reaches the server can call itself one."""


class Balancers:
    """Notes when each connection of a balancer last asked, and how often since the server began to leave."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}
        self._told: dict[str, int] | None = None
        self._news = asyncio.Event()

    def note(self, agent: str, peer: str) -> None:
        """Somebody has asked for health, and is being answered: a program of that name, by that connection."""
        if not agent.startswith(_AGENTS):
            return
        self._asked.pop(peer, None)
        self._asked[peer] = asyncio.get_running_loop().time()
        if len(self._asked) > _MOST:
            del self._asked[next(iter(self._asked))]
        if self._told is not None:
            self._told[peer] = self._told.get(peer, 0) + 1
            self._news.set()

    async def know(self, grace: float) -> None:
        """Waits, for a few of the `grace`'s seconds at most, until those who are there know what they are answered from
        now on. Does not wait where there are none.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + min(_FAREWELL, grace)
        told = self._told = dict[str, int]()
        while waiting := self._unaware(told, loop.time()):
            self._news.clear()
            try:
                async with asyncio.timeout_at(min(ends, max(waiting) + _GONE)):
                    await self._news.wait()
            except TimeoutError:
                if loop.time() >= ends:
                    return

    def _unaware(self, told: dict[str, int], now: float) -> list[float]:
        """When those asked who are there and do not know yet."""
        return [at for peer, at in self._asked.items() if at + _GONE > now and told.get(peer, 0) < _TOLD]


class Health(health.aio.HealthServicer):  # type: ignore[misc, unused-ignore]
    """The health service, which notes the balancers among those who ask."""

    def __init__(self, balancers: Balancers) -> None:
        super().__init__()
        self._balancers = balancers

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """One question."""
        answer = await super().Check(request, context)
        agent = next((value for key, value in context.invocation_metadata() if key == "user-agent"), "")
        self._balancers.note(agent, context.peer())
        return answer
