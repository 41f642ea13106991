"""A server that leaves: balancers in front, known by their health checks, are told first. Over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.rpc.balancers import Balancers
from services.rpc.boundary import Boundary, Open
from services.rpc.channel import dial
from services.rpc.server import GrpcServer
from tests.unit.rpc.test_boundary import METHODS, SERVICE, TIMEOUT, Authenticator

LONG = 60.0
ENVOY = (
    ("grpc.primary_user_agent", "Envoy/HC"),
    ("grpc.use_local_subchannel_pool", 1),  # a connection each
)


@asynccontextmanager
async def serving() -> AsyncIterator[GrpcServer]:
    handler = grpc.method_handlers_generic_handler(SERVICE, METHODS)
    server = GrpcServer(
        "127.0.0.1:0",
        Boundary({f"/{SERVICE}/Everybody": Open.TO_ALL}, Authenticator()),
        (SERVICE,),
        (lambda server: server.add_generic_rpc_handlers((handler,)),),
    )
    await server.start()
    await server.set_ready(True)
    try:
        yield server
    finally:
        await server.stop(0)


async def asks(channel: grpc.aio.Channel) -> bool:
    """What a health check is told."""
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def calls(channel: grpc.aio.Channel) -> bytes:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Everybody")
    return await call(b"", timeout=TIMEOUT)


async def test_nobody_is_waited_for_where_none_balances() -> None:
    async with serving() as server, dial(server.address) as channel:
        assert await asks(channel)
        async with asyncio.timeout(TIMEOUT):
            await server.leave(LONG)
        assert not await asks(channel)


async def test_a_server_leaves_when_each_balancer_has_surely_read_that_it_does() -> None:
    async with serving() as server, dial(server.address, *ENVOY) as one, dial(server.address, *ENVOY) as other:
        assert await asks(one)
        assert await asks(other)
        leaving = asyncio.ensure_future(server.leave(LONG))
        for channel in (one, other, other, other):
            while await asks(channel):  # the task has not yet begun
                continue
            assert not leaving.done()
            assert await calls(channel) == b"hello"
        assert not await asks(one)
        async with asyncio.timeout(TIMEOUT):
            await leaving


class Time:
    """The running loop's clock, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._ahead = 0.0
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead)

    def passes(self, seconds: float) -> None:
        self._ahead += seconds


async def test_who_has_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    time, balancers = Time(monkeypatch), Balancers()
    balancers.note("Envoy/HC", "gone")
    time.passes(3.1)
    async with asyncio.timeout(TIMEOUT):
        await balancers.know(LONG)


async def test_who_goes_meanwhile_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    time, balancers = Time(monkeypatch), Balancers()
    balancers.note("Envoy/HC", "going")
    knowing = asyncio.ensure_future(balancers.know(LONG))
    await asyncio.sleep(0)
    balancers.note("Envoy/HC", "going")
    await asyncio.sleep(0)
    assert not knowing.done()
    time.passes(3.1)
    async with asyncio.timeout(TIMEOUT):
        await knowing


async def test_who_asks_too_rarely_is_waited_for_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    time, balancers = Time(monkeypatch), Balancers()
    balancers.note("Envoy/HC", "slow")
    knowing = asyncio.ensure_future(balancers.know(2.0))
    await asyncio.sleep(0)
    assert not knowing.done()
    time.passes(2.1)
    async with asyncio.timeout(TIMEOUT):
        await knowing


async def test_invented_balancers_are_bounded() -> None:
    balancers = Balancers()
    for number in range(10_000):
        balancers.note("Envoy/HC", f"ipv4:127.0.0.1:{number}")
    knowing = asyncio.ensure_future(balancers.know(LONG))
    await asyncio.sleep(0)
    for number in range(10_000 - 64, 10_000):
        assert not knowing.done()
        balancers.note("Envoy/HC", f"ipv4:127.0.0.1:{number}")
        balancers.note("Envoy/HC", f"ipv4:127.0.0.1:{number}")
    async with asyncio.timeout(TIMEOUT):
        await knowing
