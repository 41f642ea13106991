"""The facade's connection to a router that is there, away, and there again; over real gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.core.errors import Reason, ServiceError
from services.facade.router_link import RouterLink
from tests.testing.processes import SOON, HeldPort
from tests.testing.streams import Answer, Answerer, Peer, Served, request


@contextlib.asynccontextmanager
async def linked(address: str, *, patience: float) -> AsyncIterator[RouterLink]:
    link = RouterLink(address, patience=patience)
    keeping = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await link.close()


def open_call(link: RouterLink) -> Answer:
    answer = Answer()
    link.open(request(), answer, 1000)
    answer.opened = True
    return answer


async def test_a_call_gives_up_on_a_router_that_does_not_come() -> None:
    port = HeldPort()
    async with linked(f"127.0.0.1:{port.port}", patience=0.1) as link, asyncio.timeout(SOON):
        answer = open_call(link)
        await answer.over.wait()
        assert answer.reason is Reason.ROUTER_UNAVAILABLE
        assert answer.error is not None
        assert str(port.port) in answer.error.message
        assert answer.error.retry_after == 1.0
        assert not await link.ready()
    port.close()


async def test_a_waiting_call_goes_on_when_the_router_comes() -> None:
    answerer = Answerer()
    async with Peer(answerer) as peer, linked(peer.address, patience=SOON) as link, asyncio.timeout(SOON):
        answer = open_call(link)  # before the stream is up
        assert not link._up.is_set()
        await answerer.arrived.wait()
        served = answerer.calls[0]
        assert (served.request, served.credit) == (request(), 1000)
        served.head()
        served.data(b"abc")
        served.receiver.end()
        await answer.over.wait()
        assert (answer.body, answer.error) == (b"abc", None)


async def test_a_waiting_call_whose_client_left_is_never_made() -> None:
    answerer = Answerer()
    async with Peer(answerer) as peer, linked(peer.address, patience=SOON) as link, asyncio.timeout(SOON):
        gone = Answer()
        link.open(request(b"gone"), gone, 1).cancel()
        gone.left = True
        open_call(link)
        await answerer.arrived.wait()
        assert [served.request.body for served in answerer.calls] == [b"{}"]


async def test_closing_ends_the_calls_that_wait() -> None:
    port = HeldPort()
    async with linked(f"127.0.0.1:{port.port}", patience=SOON) as link:
        answer = open_call(link)
    assert answer.reason is Reason.ROUTER_UNAVAILABLE
    port.close()


async def test_it_dials_again_after_its_stream_has_ended() -> None:
    answerer = Answerer()
    async with Peer(answerer) as peer, linked(peer.address, patience=SOON) as link, asyncio.timeout(SOON):
        cut = open_call(link)
        await answerer.arrived.wait()
        peer.links[0].mux.close(ServiceError(Reason.SHUTTING_DOWN))
        await cut.over.wait()
        assert cut.error is not None
        assert (cut.reason, cut.error.retry_after) == (Reason.ROUTER_UNAVAILABLE, 1.0)
        answerer.arrived.clear()
        open_call(link)
        await answerer.arrived.wait()
        assert len(peer.links) == 2


async def arrived(answerer: Answerer, number: int) -> list[Served]:
    """The calls, as soon as there are so many."""
    while len(answerer.calls) < number:
        answerer.arrived.clear()
        await answerer.arrived.wait()
    return answerer.calls


def answered(served: Served) -> None:
    served.head()
    served.data(b"abc")
    served.receiver.end()


async def test_calls_that_a_stopping_router_has_not_begun_wait_for_its_successor_in_order() -> None:
    answerer = Answerer()
    why = ServiceError(Reason.SHUTTING_DOWN, retry_after=1.0)
    async with Peer(answerer) as peer, linked(peer.address, patience=SOON) as link, asyncio.timeout(SOON):
        last, refused, crossing = (open_call(link) for _ in range(3))
        calls = await arrived(answerer, 3)
        mux = peer.links[0].mux
        mux.drain(1)
        calls[1].receiver.fail(why)
        answered(calls[0])
        await last.over.wait()
        mux.tell_why(why)
        mux.close(why)
        for served in (await arrived(answerer, 5))[3:]:
            answered(served)
        for answer in (refused, crossing):
            await answer.over.wait()
            assert (bytes(answer.body), answer.error) == (b"abc", None)


async def test_what_was_granted_before_a_router_began_is_granted_to_its_successor() -> None:
    answerer = Answerer()
    async with Peer(answerer) as peer, linked(peer.address, patience=SOON) as link, asyncio.timeout(SOON):
        call = link.open(request(), Answer(), 1000)
        call.grant(5)
        await arrived(answerer, 1)
        assert answerer.calls[0].credit == 1005
        call.cancel()


async def test_a_call_that_a_stopping_router_had_begun_is_not_made_again() -> None:
    answerer = Answerer()
    async with Peer(answerer) as peer, linked(peer.address, patience=SOON) as link, asyncio.timeout(SOON):
        begun, cut = open_call(link), open_call(link)
        calls = await arrived(answerer, 2)
        peer.links[0].mux.drain(1)
        calls[0].head()
        calls[0].data(b"abc")
        calls[0].receiver.fail(ServiceError(Reason.SHUTTING_DOWN, retry_after=1.0))
        calls[1].receiver.fail(ServiceError(Reason.SHUTTING_DOWN))
        for answer in (begun, cut):
            await answer.over.wait()
            assert answer.reason is Reason.SHUTTING_DOWN
        assert begun.body == b"abc"
