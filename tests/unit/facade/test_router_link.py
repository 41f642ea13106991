"""The facade's connection to a router that is there, away, and there again; over real gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.core.errors import Reason, ServiceError
from services.facade.router_link import RouterLink
from tests.testing.processes import SOON, HeldPort
from tests.testing.streams import Answer, Answerer, Peer, request


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
        answerer.arrived.clear()
        open_call(link)
        await answerer.arrived.wait()
        assert len(peer.links) == 2
