"""Limits over HTTP with two routers, each behind a facade of its own, and a real Redis that both count in.

What was used is told by the model server, which knows nothing of limits.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.cli.parts import service_part, to_environ
from tests.testing.mesh import ENDPOINT, MeshOptions, hold, let_go
from tests.testing.parts import requires_part
from tests.testing.processes import HeldPort, Part
from tests.testing.redis import RedisServer
from tests.testing.simulator import Simulator

MODEL = "sim-model"
LIMIT = 1000
CALLERS = 200
LEASES = 2 * LIMIT // 20
"""What two routers may have at hand."""
WITHOUT_STORE = LIMIT * 3 // 2 + LEASES
"""As docs/limits.md says: the limit, half of it again where each router had its part, and the leases."""
QUOTAS = (
    {"subject": "users/tester", "tokens_per_minute": LIMIT},
    {"subject": "users/rare", "requests_per_second": 0.05},
    {"subject": "users/few", "concurrent_calls": 5},
)
BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me of looms."}],
    "max_tokens": 60,
}


class Pair:
    """A mesh with a second router and a second facade, and one model server that both routers know by its URL."""

    def __init__(self, home: Path, store: RedisServer) -> None:
        self.sim = Simulator("sim", home, "--ttft-s", "0.2")
        limits = {"store_url": store.url, "routers": 2, "prompt_overhead_tokens": 0}
        seed = {"endpoints": [{"name": ENDPOINT, "url": self.sim.url, "models": [MODEL]}]}
        self.mesh = hold(
            home,
            MeshOptions(
                workers=0, auth={"quotas": QUOTAS}, registry={"seed": seed}, router={"limits": limits}, grace=2
            ),
        )
        self._ports = HeldPort(), HeldPort()
        self._second: list[Part] = []
        self.urls: Sequence[str] = (self.mesh.url, f"http://127.0.0.1:{self._ports[1].port}")
        self.keys: dict[str, str] = {}

    async def start(self) -> None:
        """Starts all."""
        self.sim.launch()
        await self.mesh.start()
        home = self.mesh.home / "second"
        home.mkdir()
        shutil.copy(self.mesh.home / "service.key", home)
        router, facade = (port.port for port in self._ports)
        settings = {
            "router": {"address": f"127.0.0.1:{router}"},
            "facade": {"port": facade, "router_address": f"127.0.0.1:{router}"},
        }
        environ = {**self.mesh.environ, **to_environ(settings), "WEFT_HOME": str(home)}
        self._second = [Part(service_part(name, home, environ, grace=2)) for name in ("router", "facade")]
        for part in self._second:
            await part.start()
        for user in ("tester", "rare", "few"):
            self.keys[user] = await self.mesh.create_key(principal=f"users/{user}")
        free = self.mesh.key
        async with aiohttp.ClientSession() as session:
            for url in self.urls:
                await self.mesh.until(
                    lambda url=url: ask(session, url, free), lambda said: said[0] == 200, "it answers"
                )

    def clear_away(self) -> None:
        """Ends all."""
        for part in (*self._second, self.sim):
            part.clear_away()
        for port in self._ports:
            port.close()
        let_go(self.mesh)

    async def failures(self) -> float:
        """How often a router asked the store in vain: one that stood still for a second takes it for away."""
        asked = "weft_router_limits_store_round_trips_total"
        return sum([await router.metric(asked, outcome="failed") for router in (self.mesh.router, self._second[0])])

    async def rush(self, user: str, *, rounds: int = 1, pause: float = 0.5, **fields: Any) -> Counter[Any]:
        """All callers at once, half of them at each facade, each calling so often; how often which answer came."""
        said: Counter[Any] = Counter()

        async def caller(session: aiohttp.ClientSession, url: str) -> None:
            for _ in range(rounds):
                said[await ask(session, url, self.keys[user], **fields)] += 1
                await asyncio.sleep(pause)

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(caller(session, self.urls[number % 2]))
        return said


async def ask(session: aiohttp.ClientSession, url: str, key: str, **fields: Any) -> tuple[int, str]:
    """Status and code of what a chat is answered with."""
    request = session.post(
        f"{url}/v1/chat/completions", json={**BODY, **fields}, headers={"Authorization": f"Bearer {key}"}
    )
    async with request as response:
        if response.status == 200:
            await response.read()
            return 200, ""
        return response.status, (await response.json())["error"]["type"]


@pytest.fixture
async def pair(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path, redis_server)
    try:
        await pair.start()
        yield pair
    finally:
        pair.clear_away()


@requires_part("redis")
async def test_two_hundred_callers_at_two_routers_use_no_more_than_their_limit(pair: Pair) -> None:
    before, failures = await pair.sim.computed(), await pair.failures()
    whole, streamed = await asyncio.gather(pair.rush("tester", rounds=6), pair.rush("tester", rounds=6, stream=True))
    used = await pair.sim.computed() - before
    assert {*whole, *streamed} == {(200, ""), (429, "tokens")}
    shared = await pair.failures() == failures
    assert LIMIT // 2 < used <= (LIMIT if shared else WITHOUT_STORE)


@requires_part("redis")
async def test_the_store_is_killed_in_the_middle_and_comes_back_empty(pair: Pair, redis_server: RedisServer) -> None:
    before = await pair.sim.computed()

    async def used() -> int:
        return await pair.sim.computed() - before

    rush = asyncio.create_task(pair.rush("tester", rounds=16, stream=True))
    await pair.mesh.until(used, lambda tokens: tokens > LIMIT // 3, "a third is used")
    redis_server.kill()
    away = pair.mesh.router.metric
    await pair.mesh.until(lambda: away("weft_router_limits_store_up"), lambda up: up == 0, "the store is missed")
    redis_server.start()
    said = await rush
    assert {status for status, _ in said} <= {200, 429}
    assert LIMIT // 3 < await used() <= WITHOUT_STORE
    await pair.mesh.until(lambda: away("weft_router_limits_store_up"), lambda up: up == 1, "the store is found again")
    whole = await used()
    assert set(await pair.rush("tester", pause=0)) == {(429, "tokens")}
    assert await used() == whole, "a store that has begun anew has been told"


@requires_part("redis")
async def test_calls_a_second_and_calls_at_once_are_counted_by_both_routers(pair: Pair) -> None:
    assert (await pair.rush("rare", pause=0))[200, ""] == 1
    rush = asyncio.create_task(pair.rush("few", rounds=2, max_tokens=200, stream=True))
    most = 0
    while not rush.done():
        most = max(most, await pair.sim.running_calls())
        await asyncio.sleep(0.01)
    said = await rush
    assert set(said) == {(200, ""), (429, "concurrent_requests")}
    assert 0 < most <= 5
