"""What is tried again, when, and how often."""

import asyncio

import pytest
from weft.client import AsyncClient, Client, InvalidRequest, Retry, Unavailable, WeftError
from weft.client.retry import Attempts

from services.core.errors import Reason, ServiceError
from tests.unit.client.server import Server, said

QUICK = Retry(attempts=3, first_wait=0.001)


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def error(reason: str, retry_after: float | None = None) -> WeftError:
    return WeftError(reason, "…", retry_after=retry_after)


def test_waits_double_up_to_the_longest() -> None:
    clock = Clock()
    attempts = Attempts(Retry(attempts=6, first_wait=1, longest_wait=4), 1000, clock, lambda: 1.0)
    assert [attempts.failed(error("NO_WORKER")) for _ in range(5)] == [1, 2, 4, 4, 4]
    with pytest.raises(WeftError):
        attempts.failed(error("NO_WORKER"))


def test_chance_spreads_waits() -> None:
    retry = Retry(first_wait=1)
    assert retry.wait(error("NO_WORKER"), 1, 100, 0.0) == 0.5
    assert retry.wait(error("NO_WORKER"), 1, 100, 1.0) == 1.0


def test_waits_at_least_as_long_as_it_is_told() -> None:
    wait = Retry(first_wait=1).wait(error("TOKENS_EXHAUSTED", retry_after=12), 1, 100, 0.0)
    assert wait == 12.5


def test_no_wait_beyond_the_deadline() -> None:
    clock = Clock()
    attempts = Attempts(Retry(), 10, clock, lambda: 0.0)
    assert attempts.failed(error("NO_WORKER", retry_after=5)) > 5
    clock.now += 6
    assert attempts.remaining == 4
    with pytest.raises(WeftError):
        attempts.failed(error("NO_WORKER", retry_after=5))
    clock.now += 60
    assert attempts.remaining == 0


@pytest.mark.parametrize("reason", ["WORKER_LOST", "UPSTREAM_BROKEN", "UNAVAILABLE", "INTERNAL", "SHUTTING_DOWN"])
def test_what_may_have_begun_is_tried_again_only_when_told(reason: str) -> None:
    assert Retry().wait(error(reason), 1, 100, 0.0) is None
    assert Retry().wait(error(reason, retry_after=1), 1, 100, 0.0) is not None


async def test_a_call_is_tried_again(server: Server) -> None:
    server.servicer.failures = [ServiceError(Reason.NO_WORKER), ServiceError(Reason.SHUTTING_DOWN, retry_after=0.001)]
    async with AsyncClient(server.address, retry=QUICK) as client:
        assert (await client.chat("m", "Hi")).choices[0].message.text == "Hello"
    ids = {headers["x-request-id"] for _, headers in server.servicer.seen}
    assert (len(server.servicer.seen), len(ids)) == (3, 1)


async def test_plain_code_tries_again(server: Server) -> None:
    server.servicer.failures = [ServiceError(Reason.NO_WORKER)] * 2

    def ask() -> str:
        with Client(server.address, retry=QUICK) as client, client.stream_chat("m", "Hi") as stream:
            return client.chat("m", "Hi").choices[0].message.text + "".join(stream.text())

    assert await asyncio.to_thread(ask) == "HelloHello"
    assert len(server.servicer.seen) == 4


async def test_attempts_are_bounded(server: Server) -> None:
    server.servicer.failures = [ServiceError(Reason.NO_WORKER)] * 9
    async with AsyncClient(server.address, retry=QUICK) as client:
        with pytest.raises(Unavailable):
            await client.chat("m", "Hi")
    assert len(server.servicer.seen) == 3


@pytest.mark.parametrize("retry", [None, QUICK])
async def test_others_are_not_tried_again(server: Server, retry: Retry | None) -> None:
    server.servicer.failures = [ServiceError(Reason.NO_WORKER if retry is None else Reason.FIELD_INVALID)] * 9
    async with AsyncClient(server.address, retry=retry) as client:
        with pytest.raises(Unavailable if retry is None else InvalidRequest):
            await client.chat("m", "Hi")
    assert len(server.servicer.seen) == 1


async def test_a_stream_is_tried_again_before_its_first_piece(server: Server) -> None:
    server.servicer.failures = [ServiceError(Reason.NO_WORKER)]
    async with AsyncClient(server.address, retry=QUICK) as client, client.stream_chat("m", "Hi") as stream:
        assert [text async for text in stream.text()] == ["Hel", "lo"]
    assert len(server.servicer.seen) == 2


async def test_a_stream_is_not_tried_again_after_its_first_piece(server: Server) -> None:
    server.servicer.pieces = [said("Hel"), ServiceError(Reason.NO_WORKER, retry_after=0.001)]
    async with AsyncClient(server.address, retry=QUICK) as client, client.stream_chat("m", "Hi") as stream:
        with pytest.raises(Unavailable):
            await stream.result()
        assert stream.so_far().choices[0].message.text == "Hel"
        assert [piece async for piece in stream] == []
    assert len(server.servicer.seen) == 1


async def test_plain_code_does_not_try_again_after_its_first_piece(server: Server) -> None:
    server.servicer.pieces = [said("Hel"), ServiceError(Reason.NO_WORKER, retry_after=0.001)]

    def ask() -> None:
        with Client(server.address, retry=QUICK) as client, client.stream_chat("m", "Hi") as stream:
            with pytest.raises(Unavailable):
                stream.result()
            assert stream.so_far().choices[0].message.text == "Hel"

    await asyncio.to_thread(ask)
    assert len(server.servicer.seen) == 1


async def test_a_router_that_is_away_has_begun_nothing() -> None:
    async with Server() as gone:
        pass
    async with AsyncClient(gone.address, retry=QUICK) as client:
        with pytest.raises(Unavailable) as failed:
            await client.chat("m", "Hi")
    assert failed.value.reason == "ROUTER_UNAVAILABLE"
