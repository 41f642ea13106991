"""Calls whose limits must be asked of the store first: they wait without a server, and may leave meanwhile."""

from __future__ import annotations

import asyncio
import json

import pytest

from services.core.errors import Reason, ServiceError
from services.core.quota import Limits, Quota
from services.router.limits.claims import Claim
from services.router.limits.limiter import Admission, Limiter
from tests.testing.streams import Answer
from tests.unit.router.test_bill import ALICE, BODY, ONE, TWO, Bench, answered

CALLS = Limits(Quota(concurrent_calls=1))


class Asked(Limiter):
    """Says nothing about endpoints until the test lets it."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(clock=bench.clock.time)
        self.told = asyncio.Event()
        self.refusal: ServiceError | None = None

    def admit(self, claims: tuple[Claim, ...], *, principal: str, tokens: int) -> Admission | None:
        if claims[0].subject.startswith("clusters/") and not self.told.is_set():
            return None
        return super().admit(claims, principal=principal, tokens=tokens)

    async def admit_later(self, claims: tuple[Claim, ...], *, principal: str, tokens: int) -> Admission:
        await self.told.wait()
        if self.refusal is not None:
            raise self.refusal
        return await super().admit_later(claims, principal=principal, tokens=tokens)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def bench_that_asks() -> tuple[Bench, Asked]:
    bench = Bench(one=CALLS)
    bench.roster.remove(bench.servers[1])
    limiter = Asked(bench)
    bench.books.limiter = limiter
    object.__setattr__(bench.books.accounting, "limiter", limiter)
    return bench, limiter


async def test_it_goes_when_the_store_has_spoken() -> None:
    bench, limiter = bench_that_asks()
    answer, _ = bench.call()
    await settled()
    assert not bench.answerers[0].calls
    limiter.told.set()
    await settled()
    answered(bench.served())
    assert answer.error is None
    assert (bench.books.records[0].endpoint, bench.left()) == (ONE, 990)


async def test_it_is_told_what_the_store_refuses() -> None:
    bench, limiter = bench_that_asks()
    answer, _ = bench.call()
    limiter.refusal = ServiceError(Reason.LIMITS_UNAVAILABLE, retry_after=1.0)
    limiter.told.set()
    await settled()
    assert answer.reason is Reason.LIMITS_UNAVAILABLE
    assert bench.left() == 1000
    assert not bench.answerers[0].calls


async def test_whoever_leaves_meanwhile_owes_nothing() -> None:
    bench, limiter = bench_that_asks()
    _, call = bench.call()
    await settled()
    call.cancel()
    limiter.told.set()
    await settled()
    assert not bench.answerers[0].calls
    assert (bench.left(), bench.books.records[0].outcome) == (1000, "cancelled")
    bench.call()
    assert len(bench.answerers[0].calls) == 1, "the one place is free"


async def test_a_server_that_is_gone_when_the_store_has_spoken_is_not_used() -> None:
    bench, limiter = bench_that_asks()
    answer, _ = bench.call()
    await settled()
    bench.roster.add(bench.servers[1])
    bench.roster.remove(bench.servers[0])
    limiter.told.set()
    await settled()
    assert not bench.answerers[0].calls
    answered(bench.served(1))
    assert [record.endpoint for record in bench.books.records] == [TWO]
    assert answer.error is None
    bench.roster.add(bench.servers[0])
    bench.servers[1].ready = False
    bench.call()
    assert len(bench.answerers[0].calls) == 1, "its place at the first endpoint was given back"


async def test_a_permit_that_ends_while_the_store_is_asked_asks_no_second_time() -> None:
    bench, limiter = bench_that_asks()
    bench.servers[0].ready = False
    answer, _ = bench.call(lasts=2)
    bench.servers[0].ready = True
    bench.roster.heard(bench.servers[0])
    await settled()
    bench.clock.advance(3)
    limiter.told.set()
    await settled()
    answered(bench.served())
    assert answer.error is None
    bench.call()
    assert len(bench.answerers[0].calls) == 2, "its one place was taken once, and given back"


@pytest.mark.parametrize("body", [BODY, {**BODY, "stream": True}])
async def test_its_body_waits_as_it_is(body: dict[str, object]) -> None:
    bench, limiter = bench_that_asks()
    answer: Answer
    answer, _ = bench.call(body, ALICE)
    limiter.told.set()
    await settled()
    assert json.loads(bench.served().request.body)["max_tokens"] == 50
    answered(bench.served())
    assert answer.ends == [None]
