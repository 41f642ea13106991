"""Calls to a model without a worker: they wait, say so, and are answered when one comes; with a launcher of the test's
own, whose workers the test starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import grpc
import openai
import pytest
from aiohttp import web
from weft.client import AsyncClient
from weft.inference.v1 import chat_pb2, inference_pb2
from weft.registry.v1 import registry_pb2, resources_pb2

from tests.integration.conftest import Measured
from tests.testing.calls import WHOLE, Call
from tests.testing.launcher import FakeLauncher
from tests.testing.mesh import Mesh, StartMesh
from tests.testing.processes import SOON

ENDPOINT = "clusters/local/endpoints/cold"
MODEL = "sim-model"
ASKED: Any = [{"role": "user", "content": "Tell me of looms."}]
QUEUED = "its job is third in the queue of 'clusters/local', expected to start at 14:05"


@contextlib.asynccontextmanager
async def cold_mesh(
    start_mesh: StartMesh, launcher: FakeLauncher, model: str = MODEL, grace: float = 10.0, **router: Any
) -> AsyncIterator[Mesh]:
    """A mesh whose one endpoint has no worker, and workers can be started for it."""
    settings = {"launcher_address": launcher.address, "settle_s": 0.0, **router}
    mesh = await start_mesh(
        workers=0,
        endpoints=(),
        router=settings,
        facade={"wait_for_router_s": 20},
        registry={"seed": {"clusters": ["clusters/local"]}},
        grace=grace,
    )
    endpoint = resources_pb2.Endpoint(name=ENDPOINT, models=[resources_pb2.ModelBinding(model=model)])
    endpoint.globus.launch.start_worker.endpoint_uuid = "e"
    endpoint.globus.launch.max_workers = 1
    async with mesh.stubs() as stubs:
        await stubs.registry.CreateEndpoint(registry_pb2.CreateEndpointRequest(endpoint=endpoint), **stubs.call)
    await mesh.until(lambda: models_of_cluster(mesh), lambda models: len(models) == 1, "the router has the endpoint")
    yield mesh


async def models_of_cluster(mesh: Mesh) -> list[Any]:
    """What the router knows of the cluster, with workers or without."""
    headers = {"Authorization": f"Bearer {mesh.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{mesh.url}/resource_server/local/models") as response,
    ):
        return list(await response.json()) if response.status == 200 else []


@pytest.fixture
async def launcher() -> AsyncIterator[FakeLauncher]:
    made = FakeLauncher()
    await made.start()
    yield made
    await made.close()


async def told(mesh: Mesh, launcher: FakeLauncher, state: str, detail: str = "", **more: Any) -> None:
    """Has the launcher say how far the endpoint's start is; returns when the router, which watches it, knows."""
    await until_known(mesh, launcher)
    launcher.tell(ENDPOINT, state, detail, **more)
    await mesh.until(
        lambda: models_of_cluster(mesh),
        lambda models: [one["status"] for one in models] == [state],
        "the state is known",
    )


async def until_known(mesh: Mesh, launcher: FakeLauncher) -> None:
    """Waits until the router has the endpoint, which makes it watch the launcher."""

    async def watched() -> int:
        return launcher.watched

    await mesh.until(watched, lambda number: number == 1, "the router watches the launcher")


async def waiting(mesh: Mesh) -> float:
    return await mesh.router.metric("weft_router_waiting_calls")


async def until_waiting(mesh: Mesh, number: int) -> None:
    await mesh.until(lambda: waiting(mesh), lambda now: now == number, f"{number} calls wait")


async def test_an_unstreamed_call_hears_at_the_end_of_its_patience_how_things_stand(
    start_mesh: StartMesh, launcher: FakeLauncher
) -> None:
    async with cold_mesh(start_mesh, launcher) as mesh:
        await told(mesh, launcher, "queued", QUEUED, retry_after_s=90)
        with pytest.raises(openai.InternalServerError) as caught:
            await mesh.openai().chat.completions.create(model=MODEL, messages=ASKED, extra_headers={"Prefer": "wait=1"})
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "90"
        assert caught.value.body == {
            "message": f"No worker serves '{MODEL}' yet: {QUEUED}; try again in 90 s.",
            "type": "server_error",
            "param": None,
            "code": "model_starting",
        }
        await launcher.until_wanted(ENDPOINT, 0)
        assert launcher.wants[0] == (ENDPOINT, 1)
        assert launcher.credentials == {(mesh.home / "service.key").read_text().strip()}


async def test_a_client_hears_before_it_would_give_up(start_mesh: StartMesh, launcher: FakeLauncher) -> None:
    async with cold_mesh(start_mesh, launcher) as mesh:
        await until_known(mesh, launcher)
        asked: list[str] = []

        async def with_patience(request: Any) -> None:
            """It has told when it gives up, and does not: on a slow machine the answer is late."""
            asked.append(request.headers["x-stainless-read-timeout"])
            request.extensions["timeout"] = dict.fromkeys(request.extensions["timeout"], SOON)

        async with openai.DefaultAsyncHttpxClient(event_hooks={"request": [with_patience]}) as http:
            client = mesh.openai(timeout=2.5, http_client=http)
            with pytest.raises(openai.InternalServerError):  # and not APITimeoutError, upon which it would try again
                await client.chat.completions.create(model=MODEL, messages=ASKED)
        assert asked == ["2.5"]


async def test_openais_client_waits_with_heartbeats_for_a_stream(start_mesh: StartMesh, launcher: FakeLauncher) -> None:
    async with cold_mesh(start_mesh, launcher, heartbeat_after_s=0.2) as mesh:
        await told(mesh, launcher, "queued", QUEUED)
        call = Call(mesh, stream=True)
        await call.begun(1)
        assert (call.status, call.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert bytes(call.body).startswith(f": weft queued — {QUEUED}\n\n".encode())
        client = mesh.openai()
        stream = await client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=4, stream=True)
        launcher.tell(ENDPOINT, "starting")
        await mesh.until(lambda: body(call), lambda now: b": weft starting" in now, "the other state is told")
        mesh.launch_worker(endpoint=ENDPOINT)
        chunks = [chunk async for chunk in stream]
        assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == 4
        assert await call.ending() == WHOLE


async def body(call: Call) -> bytes:
    return bytes(call.body)


MESSAGE: Any = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [],
    "model": MODEL,
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 0},
}


@contextlib.asynccontextmanager
async def messages_server() -> AsyncIterator[str]:
    """A model server with the one operation that the simulator lacks: its URL."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def answer(_: web.Request) -> web.Response:
        events = [{"type": "message_start", "message": MESSAGE}, {"type": "message_stop"}]
        body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        return web.Response(text=body, content_type="text/event-stream", charset="utf-8")

    async def nothing(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/messages", answer)
    app.router.add_get("/{other}", nothing)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_anthropics_client_waits_with_heartbeats_for_a_stream(
    start_mesh: StartMesh, launcher: FakeLauncher
) -> None:
    async with cold_mesh(start_mesh, launcher, heartbeat_after_s=0.2) as mesh, messages_server() as url:
        await until_known(mesh, launcher)
        async with anthropic.AsyncAnthropic(base_url=mesh.url, api_key=mesh.key, max_retries=0) as client:
            stream = await client.messages.create(model=MODEL, messages=ASKED, max_tokens=4, stream=True)
            mesh.launch_worker(endpoint=ENDPOINT, vllm_url=url)
            events = [event.type async for event in stream]
        assert events == ["message_start", "message_stop"]


@pytest.mark.parametrize("served", ["refused", "none"])
async def test_what_goes_wrong_after_a_heartbeat_raises_in_the_clients(
    start_mesh: StartMesh, launcher: FakeLauncher, served: str
) -> None:
    patience = 1.5 if served == "none" else 60.0
    async with cold_mesh(start_mesh, launcher, heartbeat_after_s=0.2, cold_start_patience_s=patience) as mesh:
        await told(mesh, launcher, "queued", QUEUED)
        async with (
            mesh.openai() as client,
            anthropic.AsyncAnthropic(base_url=mesh.url, api_key=mesh.key, max_retries=0) as claude,
        ):
            stream, events = await asyncio.gather(
                client.chat.completions.create(model=MODEL, messages=ASKED, stream=True, max_tokens=1_000_000),
                claude.messages.create(model=MODEL, messages=ASKED, max_tokens=4, stream=True),
            )
            if served == "refused":
                mesh.launch_worker(endpoint=ENDPOINT)
            with pytest.raises(openai.APIError) as caught:
                _ = [chunk async for chunk in stream]
            with pytest.raises(anthropic.APIStatusError) as raised:
                _ = [event async for event in events]
        # The simulator refuses so long an answer, and has no messages.
        assert ("max_model_len" if served == "refused" else QUEUED) in str(caught.value)
        assert ("Not Found" if served == "refused" else QUEUED) in str(raised.value)


async def test_grpc_callers_get_the_same_bytes(start_mesh: StartMesh, launcher: FakeLauncher) -> None:
    async with cold_mesh(start_mesh, launcher, heartbeat_after_s=0.2) as mesh:
        await told(mesh, launcher, "queued", QUEUED)
        request = inference_pb2.InferRequest(
            operation="chat/completions",
            body_json=f'{{"model":"{MODEL}","messages":[{{"role":"user","content":"a"}}],"stream":true,"max_tokens":3}}',
        )
        async with mesh.stubs() as stubs:
            text, launched = "", False
            async for part in stubs.inference.Infer(request, **stubs.call):
                text += part.text
                if not launched and text:
                    launched = True
                    mesh.launch_worker(endpoint=ENDPOINT)
        assert text.startswith(f": weft queued — {QUEUED}\n\n")
        assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(("most", "reason"), [(3, None), (1_000_000, "REQUEST_REFUSED")])
async def test_typed_streams_tell_of_waiting(
    start_mesh: StartMesh, launcher: FakeLauncher, most: int, reason: str | None
) -> None:
    async with cold_mesh(start_mesh, launcher, heartbeat_after_s=0.2) as mesh:
        await told(mesh, launcher, "queued", QUEUED)
        chat = chat_pb2.ChatRequest(
            model=MODEL, messages=[{"role": "user", "text": "a"}], sampling={"max_tokens": most}
        )
        async with mesh.stubs() as stubs:
            call = aiter(stubs.inference.StreamChat(chat_pb2.StreamChatRequest(chat=chat), **stubs.call))
            first = await anext(call)
            assert (first.progress, first.HasField("start")) == (QUEUED, False)
            mesh.launch_worker(endpoint=ENDPOINT)
            if reason is None:
                pieces = [piece async for piece in call]
                assert pieces[-1].end.usage.completion_tokens == most
                return
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                _ = [piece async for piece in call]
        assert reason.encode() in dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]


async def test_weft_client_sees_a_model_start(start_mesh: StartMesh, launcher: FakeLauncher) -> None:
    async with cold_mesh(start_mesh, launcher, heartbeat_after_s=0.2) as mesh:
        await told(mesh, launcher, "queued", QUEUED)
        async with AsyncClient(mesh.address("router"), credential=mesh.key) as client:
            silent = asyncio.create_task(client.chat(MODEL, "Hello", max_tokens=3))
            stream = client.stream_chat(MODEL, "Hello", max_tokens=3)
            assert (await anext(stream)).progress == QUEUED
            mesh.launch_worker(endpoint=ENDPOINT)
            answer = await stream.result()
            assert answer.choices[0].message.text == (await silent).choices[0].message.text
        assert answer.usage.completion_tokens == 3


async def test_a_thousand_calls_wait_and_are_answered_by_one_worker(
    start_mesh: StartMesh, launcher: FakeLauncher, measured: Measured
) -> None:
    async with cold_mesh(start_mesh, launcher, heartbeat_after_s=2.0) as mesh:
        await until_known(mesh, launcher)
        calls = [Call(mesh, stream=number % 2 == 0) for number in range(1000)]
        await until_waiting(mesh, 1000)
        await launcher.until_wanted(ENDPOINT, 1000)
        mesh.launch_worker(endpoint=ENDPOINT, flags=("--max-calls", "64"), sim=("--ttft-s", "0.01"))
        began = asyncio.get_running_loop().time()
        endings = await asyncio.gather(*(call.ending() for call in calls))
        measured("1,000 cold calls answered from the start of the worker on", asyncio.get_running_loop().time() - began)
        assert endings == [WHOLE] * 1000
        await launcher.until_wanted(ENDPOINT, 0)
        assert {endpoint for endpoint, _ in launcher.wants} == {ENDPOINT}


async def test_a_launcher_that_is_away_and_comes_back(start_mesh: StartMesh, launcher: FakeLauncher) -> None:
    await launcher.stop()
    async with cold_mesh(start_mesh, launcher, heartbeat_after_s=0.2) as mesh:
        call = Call(mesh, stream=True)
        await until_waiting(mesh, 1)
        await call.begun(1)
        assert b"not known at present" in call.body
        launcher.tell(ENDPOINT, "queued", QUEUED)
        await launcher.start()
        await launcher.until_wanted(ENDPOINT, 1)
        await mesh.until(lambda: body(call), lambda now: QUEUED.encode() in now, "its state is known again")
        await launcher.stop()
        mesh.launch_worker(endpoint=ENDPOINT)
        assert await call.ending() == WHOLE


async def test_a_call_that_waits_goes_on_to_the_routers_successor(
    start_mesh: StartMesh, launcher: FakeLauncher
) -> None:
    async with cold_mesh(start_mesh, launcher, grace=0.5) as mesh:
        calls = [Call(mesh, stream=stream) for stream in (True, False)]
        await until_waiting(mesh, 2)
        assert await mesh.router.terminate() == 0
        await mesh.router.start()
        await until_waiting(mesh, 2)
        mesh.launch_worker(endpoint=ENDPOINT)
        assert [await call.ending() for call in calls] == [WHOLE, WHOLE]


async def test_a_call_that_leaves_is_wanted_no_more(start_mesh: StartMesh, launcher: FakeLauncher) -> None:
    async with cold_mesh(start_mesh, launcher) as mesh:
        await until_known(mesh, launcher)
        calls = [Call(mesh, stream=stream) for stream in (True, False, True)]
        await until_waiting(mesh, 3)
        await launcher.until_wanted(ENDPOINT, 3)
        launcher.wants.clear()
        await calls[0].leave()
        await launcher.until_wanted(ENDPOINT, 2)
        for call in calls[1:]:
            await call.leave()
        await launcher.until_wanted(ENDPOINT, 0)
        await until_waiting(mesh, 0)
        await mesh.until(
            lambda: mesh.router.metric("weft_router_open_calls"), lambda now: now == 0, "no call is open any more"
        )


async def test_a_worker_with_another_model_changes_nothing(start_mesh: StartMesh, launcher: FakeLauncher) -> None:
    async with cold_mesh(start_mesh, launcher) as mesh:
        await until_known(mesh, launcher)
        call = Call(mesh, stream=False)
        await until_waiting(mesh, 1)
        await mesh.add_worker(endpoint=ENDPOINT, sim=("--model", "another"))
        assert (await waiting(mesh), call.status) == (1, 0)
        mesh.launch_worker(endpoint=ENDPOINT)
        assert await call.ending() == WHOLE
