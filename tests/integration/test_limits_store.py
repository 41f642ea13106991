"""Limits of two routers, each a process of its own, with a real Redis that is killed and comes back empty."""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.testing.parts import requires_part
from tests.testing.processes import SOON
from tests.testing.redis import RedisServer

LIMIT = {"tokens_per_minute": 1000}
ALICE = "users/alice"


class Router:
    """Asks a limiter's process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def call(self, calls: int, tokens: int, quota: dict[str, float] = LIMIT) -> Any:
        """So many callers at once; what became of them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([ALICE, quota, calls, tokens]).encode() + b"\n")
        async with asyncio.timeout(SOON):
            return json.loads(await self._process.stdout.readline())


@contextlib.asynccontextmanager
async def _router(url: str, name: str) -> AsyncIterator[Router]:
    command = [sys.executable, "-m", "tests.testing.limiting_process", url, name]
    process = await create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env={"PYTHONPATH": ".:protos/gen"})
    try:
        yield Router(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


@pytest.fixture
async def routers(redis_server: RedisServer) -> AsyncIterator[list[Router]]:
    async with _router(redis_server.url, "r1") as first, _router(redis_server.url, "r2") as second:
        yield [first, second]


@requires_part("redis")
async def test_two_hundred_callers_use_what_there_is_and_no_more(routers: list[Router]) -> None:
    said = await asyncio.gather(*(router.call(100, 15) for router in routers))
    admitted = sum(answer["admitted"] for answer in said)
    assert 900 <= admitted * 15 <= 1000
    assert all(answer["reasons"] == ["TOKENS_EXHAUSTED"] for answer in said)


@requires_part("redis")
async def test_a_store_that_restarts_empty_is_told_before_it_grants(
    routers: list[Router], redis_server: RedisServer
) -> None:
    before = sum(answer["admitted"] for answer in await asyncio.gather(*(router.call(10, 30) for router in routers)))
    assert before == 20
    redis_server.kill()
    redis_server.start()
    used = before * 30
    for _ in range(2):  # one finds the store gone or anew; the other is after that
        used += 30 * sum(answer["admitted"] for answer in await asyncio.gather(*(r.call(100, 30) for r in routers)))
    assert used <= 1000, "leases would come on top; there were none, as each caller came once"
    assert used >= 900


@requires_part("redis")
async def test_while_the_store_is_away_each_router_has_its_part(
    routers: list[Router], redis_server: RedisServer
) -> None:
    used = 30 * sum([(await router.call(10, 30))["admitted"] for router in routers])
    redis_server.kill()
    said = await asyncio.gather(*(router.call(100, 30) for router in routers))
    used += 30 * sum(answer["admitted"] for answer in said)
    # The first heard of 300, the other of 600: half of 700 and half of 400.
    assert 600 < used <= 600 + 350 + 200
    assert all(answer["reasons"] == ["TOKENS_EXHAUSTED"] for answer in said)
    redis_server.start()
    said = await asyncio.gather(*(router.call(1, 1000) for router in routers))
    assert [answer["admitted"] for answer in said] == [0, 0]
