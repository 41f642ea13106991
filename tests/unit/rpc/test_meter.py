"""RPCs are counted by method and status, however they end; over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.rpc.meter import RpcMeter
from tests.testing.processes import SOON

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


class Health(health_pb2_grpc.HealthServicer):
    """Ends as the name of the service that is asked about says."""

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.service == "refused":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no")
        if request.service == "set":
            context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        if request.service == "broken":
            raise RuntimeError("a fault of ours")
        if request.service == "slow":
            await asyncio.Event().wait()
        return health_pb2.HealthCheckResponse()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield health_pb2.HealthCheckResponse()
        if request.service == "refused":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        if request.service == "slow":
            await asyncio.Event().wait()


@pytest.fixture
async def counted() -> AsyncIterator[tuple[RpcMeter, Any]]:
    meter = RpcMeter("auth")
    server = grpc.aio.server(interceptors=(meter,))
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield meter, channel
    await server.stop(None)


async def until(meter: RpcMeter, *expected: tuple[str, str]) -> None:
    """Waits until these have been counted, once each, and nothing else."""
    wanted = [(("auth", *one), 1) for one in expected]
    async with asyncio.timeout(SOON):
        while sorted(next(iter(meter.families())).rows, key=str) != sorted(wanted, key=str):  # noqa: ASYNC110 it tells nobody
            await asyncio.sleep(0.01)


def request(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


async def test_rpcs_with_one_answer(counted: tuple[RpcMeter, Any]) -> None:
    meter, channel = counted
    check = health_pb2_grpc.HealthStub(channel).Check
    await check(request(""))
    for service in ("refused", "set", "broken"):
        with pytest.raises(grpc.aio.AioRpcError):
            await check(request(service))
    with pytest.raises(grpc.aio.AioRpcError):
        await check(request("slow"), timeout=0.2)
    codes = ("OK", "NOT_FOUND", "ALREADY_EXISTS", "UNKNOWN", "CANCELLED")
    await until(meter, *((CHECK, code) for code in codes))


async def test_streams(counted: tuple[RpcMeter, Any]) -> None:
    meter, channel = counted
    watch = health_pb2_grpc.HealthStub(channel).Watch
    assert len([message async for message in watch(request(""))]) == 1
    with pytest.raises(grpc.aio.AioRpcError):
        assert [message async for message in watch(request("refused"))]
    leaving = watch(request("slow"))
    await leaving.read()
    leaving.cancel()
    await until(meter, (WATCH, "OK"), (WATCH, "UNAVAILABLE"), (WATCH, "CANCELLED"))
    _, seconds = meter.families()
    assert seconds.rows == [], "how long a stream lasts is its caller's wish"


async def test_a_method_that_is_invented_is_not_counted(counted: tuple[RpcMeter, Any]) -> None:
    meter, channel = counted
    for number in range(10):
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"/grpc.health.v1.Health/Invented{number}")(b"")
    assert next(iter(meter.families())).rows == []
