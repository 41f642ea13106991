"""What passes the facade and the router, and what does not: headers outwards, FIRST's URLs, and gRPC clients."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from weft.inference.v1 import inference_pb2

from services.core.headers import TO_UPSTREAM
from services.rpc.channel import bearer, dial
from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import Mesh, StartMesh
from tests.testing.processes import SOON

CHAT = "/v1/chat/completions"
MODEL = "sim-model"
ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 4}


class Recorder:
    """A model server that keeps the headers of every call."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[list[tuple[str, str]]] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Recorder]:
        """Serves in the body of the `async with`."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post(CHAT, self._chat)
        app.router.add_get("/health", lambda _: _respond(b""))
        app.router.add_get("/metrics", lambda _: _respond(b""))
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "recorded", "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.Response:
        self.calls.append([(name.lower(), value) for name, value in request.headers.items()])
        answer = web.json_response({"id": "x"})
        answer.headers["Set-Cookie"] = "session=1"
        answer.headers["Server"] = "private"
        return answer


async def _respond(body: bytes) -> web.Response:
    return web.Response(body=body)


async def test_a_clients_credentials_stay_in_the_mesh(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=0)
    secret = "known-to-the-client-alone"
    sent = {
        "Authorization": f"Bearer {mesh.key}",
        "X-Api-Key": secret,
        "Cookie": secret,
        "Proxy-Authorization": f"Basic {secret}",
        "X-Forwarded-For": secret,
        "X-Forwarded-Host": secret,
        "Forwarded": f"for={secret}",
        "X-Real-Ip": secret,
        "X-Custom": secret,
        "User-Agent": secret,
        "Referer": secret,
        "X-Request-Id": "id-1",
        "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    async with Recorder().serving() as recorder, aiohttp.ClientSession() as session:
        await mesh.add_worker(vllm_url=recorder.url)
        request = {**ASKED, "model": "recorded"}
        async with session.post(mesh.url + CHAT, json=request, headers=sent) as answer:
            assert answer.status == 200, await answer.text()
            assert "set-cookie" not in answer.headers
            assert "server" not in answer.headers
            assert answer.headers["x-request-id"] == "id-1"
    (received,) = recorder.calls
    framing = {"host", "content-length"}
    assert {name for name, _ in received} <= TO_UPSTREAM | framing
    assert not [header for header in received if secret in header[1] or mesh.key in header[1]]
    assert dict(received)["x-request-id"] == "id-1"
    assert dict(received)["traceparent"] == sent["Traceparent"]


@pytest.mark.parametrize(
    ("prefix", "status"),
    [
        ("/resource_server", 200),
        ("/resource_server/local/vllm", 200),
        ("/resource_server/elsewhere/vllm", 404),
    ],
)
async def test_firsts_urls(mesh: Mesh, prefix: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {mesh.key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(mesh.url + prefix + CHAT, json=ASKED, headers=headers) as answer,
    ):
        assert answer.status == status, await answer.text()


# gRPC


async def infer(mesh: Mesh, key: str | None, **fields: Any) -> list[inference_pb2.InferResponse]:
    async with mesh.stubs() as stubs:
        request = inference_pb2.InferRequest(**fields)
        metadata = bearer(key) if key else ()
        return [message async for message in stubs.inference.Infer(request, metadata=metadata, timeout=SOON)]


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in the ErrorInfo of a rich status."""
    (packed,) = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(packed)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "weft"
    return info.reason


async def test_infer_streams_a_chat(mesh: Mesh) -> None:
    messages = await infer(
        mesh, mesh.key, operation="chat/completions", body_json=json.dumps({**ASKED, "stream": True})
    )
    assert messages[0].head.status == 200
    text = "".join(message.text for message in messages[1:])
    assert text.endswith("data: [DONE]\n\n")
    assert len(text.split("\n\n")) == 7  # one opens the stream, four tokens, [DONE]


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"operation": CHAT, "body_json": "not json"}, grpc.StatusCode.INVALID_ARGUMENT, "BODY_NOT_JSON"),
        ({"operation": CHAT, "body_json": ""}, grpc.StatusCode.INVALID_ARGUMENT, "BODY_NOT_JSON"),
        ({"operation": CHAT, "body_json": "[1]"}, grpc.StatusCode.INVALID_ARGUMENT, "BODY_NOT_OBJECT"),
        ({"operation": CHAT, "body_json": '{"model": "no"}'}, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        ({"operation": "/metrics", "body_json": "{}"}, None, "OPERATION_NOT_FOUND"),
        ({"operation": "", "body_json": "{}"}, None, "OPERATION_NOT_FOUND"),
        ({"operation": "/v1/x\r\nX-Evil: y", "body_json": "{}"}, None, "OPERATION_NOT_FOUND"),
        ({"operation": "/v1/load_lora_adapter", "body_json": "{}"}, None, "OPERATION_NOT_FOUND"),
    ],
)
async def test_infer_refuses(mesh: Mesh, fields: Any, code: grpc.StatusCode | None, reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await infer(mesh, mesh.key, **fields)
    assert reason_of(refused.value) == reason
    assert code is None or refused.value.code() is code


@pytest.mark.parametrize(("key", "reason"), [(None, "CREDENTIAL_MISSING"), ("nonsense", "CREDENTIAL_INVALID")])
async def test_infer_needs_a_key(mesh: Mesh, key: str | None, reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await infer(mesh, key, operation=CHAT, body_json=json.dumps(ASKED))
    assert (refused.value.code(), reason_of(refused.value)) == (grpc.StatusCode.UNAUTHENTICATED, reason)


@pytest.mark.parametrize(
    "method", ["/weft.inference.v1.InferenceService/Multiplex", "/weft.session.v1.SessionService/Connect"]
)
@pytest.mark.parametrize("garbage", [b"\xff" * 1000, b"\x0a\x02\x08\x07", b""])
async def test_garbage_ends_its_own_stream_alone(mesh: Mesh, method: str, garbage: bytes) -> None:
    bystander = Call(mesh, stream=True, tokens=40)
    await bystander.begun()
    async with dial(mesh.address("router")) as channel:
        stream = channel.stream_stream(method)(metadata=bearer(mesh.key), timeout=SOON)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stream.write(garbage)
            await stream.done_writing()
            while await stream.read() is not grpc.aio.EOF:
                pass
        assert await stream.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    assert await bystander.ending() == WHOLE
    assert await Call(mesh, stream=False).ending() == WHOLE


async def test_reflection_lists_the_services(mesh: Mesh) -> None:
    async with dial(mesh.address("router")) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = [answer async for answer in stub.ServerReflectionInfo(asked, timeout=SOON)]
    named = {service.name for service in answers[0].list_services_response.service}
    assert {"weft.inference.v1.InferenceService", "weft.session.v1.SessionService", "grpc.health.v1.Health"} <= named
