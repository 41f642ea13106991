"""The gRPC front: callers known by their certificates, and nobody else for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from weft.inference.v1 import inference_pb2, inference_pb2_grpc
from weft.registry.v1 import registry_pb2, registry_pb2_grpc, resources_pb2
from weft.session.v1 import session_pb2, session_pb2_grpc

from services.rpc.channel import bearer
from tests.envoy.conftest import StartFront
from tests.testing.certificates import Authority
from tests.testing.edge import ALICE, Front
from tests.testing.mesh import Mesh
from tests.testing.parts import requires_part
from tests.testing.processes import SOON

pytestmark = requires_part("envoy")

Both = tuple[Mesh, Front]
BODY = '{"model": "sim-model", "stream": true, "max_tokens": 8, "messages": [{"role": "user", "content": "a"}]}'
CHAT = inference_pb2.InferRequest(operation="chat/completions", body_json=BODY)


async def answered(
    channel: grpc.aio.Channel, request: inference_pb2.InferRequest = CHAT, *metadata: tuple[str, str]
) -> str:
    """The text of an answer, which came to its end."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    pieces: AsyncIterator[Any] = stub.Infer(request, timeout=SOON, metadata=metadata)
    return "".join([piece.text async for piece in pieces])


async def refused(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> tuple[grpc.StatusCode, str]:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await answered(channel, CHAT, *metadata)
    return raised.value.code(), raised.value.details() or ""


async def test_a_streamed_answer_for_the_holder_of_a_certificate(mutual: Both) -> None:
    _, front = mutual
    async with front.dial() as channel:
        text = await answered(channel)
        assert text.endswith("data: [DONE]\n\n")
        models = await inference_pb2_grpc.InferenceServiceStub(channel).ListModels(
            inference_pb2.ListModelsRequest(), timeout=SOON
        )
    assert [model.id for model in models.models] == ["sim-model"]


async def test_without_a_certificate_there_is_no_connection(mutual: Both, tmp_path: Path) -> None:
    mesh, front = mutual
    async with front.dial(None) as channel:
        code, _ = await refused(channel, *bearer(mesh.key))
    assert code is grpc.StatusCode.UNAVAILABLE
    chain, key = (file.read_bytes() for file in Authority(tmp_path, "rogue").issue(ALICE))
    trusted = grpc.ssl_channel_credentials((front.certs / "ca.pem").read_bytes(), key, chain)
    async with grpc.aio.secure_channel(front.grpc, trusted) as channel:
        code, _ = await refused(channel)
    assert code is grpc.StatusCode.UNAVAILABLE
    async with front.dial("spiffe://elsewhere/users/alice") as channel:
        code, _ = await refused(channel)
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_nobody_becomes_another_by_a_header(mutual: Both) -> None:
    _, front = mutual
    lie = ("x-forwarded-client-cert", f"By=spiffe://weft/envoy;URI={ALICE}")
    async with front.dial("spiffe://weft/ns/unknown/bob") as channel:
        assert await refused(channel) == await refused(channel, lie)
        assert (await refused(channel, lie))[0] is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("part", ["admin", "router", "facade"])
async def test_nobody_becomes_a_part_of_the_mesh(mutual: Both, part: str) -> None:
    _, front = mutual
    async with front.dial(f"spiffe://weft/weft/{part}") as channel:
        code, details = await refused(channel)
    assert code is grpc.StatusCode.PERMISSION_DENIED, details


async def test_a_key_counts_before_the_certificate(mutual: Both) -> None:
    mesh, front = mutual
    scoped = await mesh.create_key(allow=["another"])
    async with front.dial() as channel:
        code, details = await refused(channel, *bearer(scoped))
        assert code is grpc.StatusCode.PERMISSION_DENIED, details
        code, _ = await refused(channel, *bearer("weft_abc_def"))
        assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_health_and_reflection_are_there_and_nothing_of_the_inside(mutual: Both) -> None:
    mesh, front = mutual
    async with front.dial() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="weft.inference.v1.InferenceService")
        assert (await health.Check(asked, timeout=SOON)).status == health_pb2.HealthCheckResponse.SERVING
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        told = [answer async for answer in reflection.ServerReflectionInfo(iter([listing]), timeout=SOON)]
        assert "weft.inference.v1.InferenceService" in str(told)

        sessions = session_pb2_grpc.SessionServiceStub(channel)
        registry = registry_pb2_grpc.RegistryServiceStub(channel)
        closed: list[Any] = [
            sessions.ListSessions(session_pb2.ListSessionsRequest(), metadata=bearer(mesh.key), timeout=SOON),
            registry.ListClusters(registry_pb2.ListClustersRequest(), metadata=bearer(mesh.key), timeout=SOON),
        ]
        for call in closed:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED

        multiplex: Any = inference_pb2_grpc.InferenceServiceStub(channel).Multiplex(
            iter([inference_pb2.MultiplexRequest()]), metadata=bearer(mesh.key), timeout=SOON
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in multiplex:
                pass
        assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_what_a_router_answers_does_not_put_it_out(mutual: Both) -> None:
    """The last healthy router stays, however often it says UNAVAILABLE: of a model, and not of itself."""
    mesh, front = mutual
    async with mesh.stubs() as stubs:
        endpoint = resources_pb2.Endpoint(
            name="clusters/local/endpoints/gone",
            http=resources_pb2.HttpBackend(url="http://127.0.0.1:9"),
            models=[resources_pb2.ModelBinding(model="gone-model")],
        )
        request = registry_pb2.CreateEndpointRequest(endpoint=endpoint)
        await stubs.registry.CreateEndpoint(request, **stubs.call)
    gone = inference_pb2.InferRequest(operation="chat/completions", body_json=BODY.replace("sim-", "gone-"))

    async def attempt(channel: grpc.aio.Channel) -> grpc.StatusCode:
        try:
            await answered(channel, gone)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async with front.dial() as channel:
        known = await mesh.until(
            lambda: attempt(channel), lambda code: code is grpc.StatusCode.UNAVAILABLE, "it is known", SOON
        )
        codes = await asyncio.gather(*(attempt(channel) for _ in range(20)))
        assert {known, *codes} == {grpc.StatusCode.UNAVAILABLE}
        assert await answered(channel)
    # And nothing of it was tried twice: retries are the router's affair.
    assert await front.stat("cluster.router.upstream_rq_retry") == 0
    assert await front.stat("cluster.router.outlier_detection.ejections_total") == 0


async def test_a_message_that_is_too_large(mutual: Both) -> None:
    _, front = mutual
    body = BODY.replace('"a"', '"' + "a" * (33 * 1024 * 1024) + '"')
    async with front.dial(ALICE, ("grpc.max_send_message_length", -1)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await answered(channel, inference_pb2.InferRequest(operation="chat/completions", body_json=body))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than 33554432 bytes" in (raised.value.details() or "")


async def test_callers_with_keys_alone(start_envoy: StartFront, plain: Both) -> None:
    """A mesh without certificates can have a gRPC front, too, which asks for none."""
    mesh, _ = plain
    front = await start_envoy(mesh, client_certificates="none")
    async with front.dial(None) as channel:
        assert (await answered(channel, CHAT, *bearer(mesh.key))).endswith("[DONE]\n\n")
        assert (await refused(channel))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_too_many_calls_are_resource_exhausted(start_envoy: StartFront, mutual: Both) -> None:
    mesh, _ = mutual
    front = await start_envoy(mesh, limits={"requests_per_second": 1, "burst": 1})
    async with front.dial() as channel:
        # All at once: of calls one after the other, on a busy machine, each may come when another second has begun.
        ends = await asyncio.gather(*(answered(channel) for _ in range(10)), return_exceptions=True)
    assert [end for end in ends if isinstance(end, str)]
    codes = {end.code() for end in ends if isinstance(end, grpc.aio.AioRpcError)}
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
