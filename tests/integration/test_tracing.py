"""One trace of a call's whole way, through real processes to a collector: from its client to its worker, however it
ends.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from weft.inference.v1 import inference_pb2

from services.rpc.channel import bearer
from tests.testing.mesh import ENDPOINT, Mesh, StartMesh
from tests.testing.otlp_sink import OtlpSink, SunkSpan
from tests.testing.processes import SOON
from tests.testing.simulator import Simulator

CHAT = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "sim-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
CALLER = "cd" * 8
"""The caller's own span."""


class Trace:
    """A trace that its caller began, and has sampled or not."""

    def __init__(self, sink: OtlpSink, *, sampled: bool = True) -> None:
        self.id = secrets.token_hex(16)
        self.headers = {"traceparent": f"00-{self.id}-{CALLER}-0{int(sampled)}", "tracestate": "caller=1"}
        self._sink = sink

    async def spans(self, *names: str) -> list[SunkSpan]:
        """Its spans, once those of these names are there and have all that they hang under."""

        def enough(spans: list[SunkSpan]) -> bool:
            ours = [span for span in spans if span.trace == self.id]
            known = {span.span for span in ours} | {CALLER}
            return {span.name for span in ours} >= set(names) and all(span.parent in known for span in ours)

        await self._sink.wait_for(enough)
        return self._sink.trace(self.id)

    async def chain(self, *names: str) -> list[SunkSpan]:
        """The spans of these names, of which each hangs under the one before, the first under the caller's."""
        by_name = {span.name: span for span in await self.spans(*names)}
        chain = [by_name[name] for name in names]
        assert [span.parent for span in chain] == [CALLER, *(span.span for span in chain[:-1])]
        return chain


def settings(sink: OtlpSink) -> dict[str, Any]:
    """Nothing is traced but what its caller has sampled, and what failed."""
    return {"endpoint": f"http://{sink.grpc_address}", "ratio": 0.0}


async def ask(mesh: Mesh, trace: Trace, key: str | None = None, **changes: Any) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {key or mesh.key}", "X-Request-Id": f"id-{trace.id[:8]}", **trace.headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(mesh.url + CHAT, json=ASKED | changes, headers=headers) as answer,
    ):
        return answer.status, await answer.read()


def events(span: SunkSpan) -> list[str]:
    return [event.name for event in span.events]


async def test_calls_are_one_trace_from_their_client_to_their_worker(start_mesh: StartMesh) -> None:
    async with OtlpSink() as sink:
        mesh = await start_mesh(tracing=settings(sink))
        dispatch = f"dispatch {ENDPOINT}"
        await ask(mesh, Trace(sink))  # the key is known from here on

        streamed = Trace(sink)
        assert (await ask(mesh, streamed, stream=True))[0] == 200
        facade, router, attempt, worker = await streamed.chain(f"POST {CHAT}", "chat sim-model", dispatch, "serve chat")
        assert [span.service for span in (facade, router, attempt, worker)] == [
            "weft-facade",
            "weft-router",
            "weft-router",
            "weft-worker",
        ]
        assert facade.start <= router.start <= attempt.start <= worker.start
        assert worker.end <= attempt.end <= router.end <= facade.end
        request_id = f"id-{streamed.id[:8]}"
        assert facade.attributes["weft.request_id"] == router.attributes["weft.request_id"] == request_id
        assert events(facade) == ["first byte"]
        assert events(router)[-3:] == ["planned", "gen_ai.first_token", "end"]
        assert router.attributes["gen_ai.usage.output_tokens"] == 3
        assert router.attributes["gen_ai.usage.input_tokens"] > 0
        assert router.attributes["gen_ai.request.stream"] is True
        assert len(await streamed.spans()) == 4

        by_grpc = Trace(sink)
        await infer(mesh, by_grpc)
        router, _, _ = await by_grpc.chain("chat sim-model", dispatch, "serve chat")
        assert router.attributes["weft.outcome"] == "ok"
        assert len(await by_grpc.spans()) == 3

        nobodys = Trace(sink, sampled=False)
        assert (await ask(mesh, nobodys))[0] == 200

        refused = Trace(sink, sampled=False)
        secret = "wk_" + secrets.token_hex(20)
        assert (await ask(mesh, refused, secret))[0] == 401
        facade, router, authenticate = await refused.chain(f"POST {CHAT}", "chat", "authenticate")
        assert facade.attributes["error.type"] == router.attributes["error.type"] == "credential_invalid"
        assert [facade.status, router.status, authenticate.status] == ["unset", "unset", "error"]

        left = Trace(sink)
        await leave(mesh, left)
        facade, router, attempt = await left.chain(f"POST {CHAT}", "chat sim-model", dispatch)
        assert {span.status for span in (facade, router, attempt)} == {"unset"}
        assert "left" in events(facade)
        assert router.attributes["weft.outcome"] == "cancelled"

        assert sink.trace(nobodys.id) == []
        told = repr(sink.spans)
        assert not [text for text in (secret, mesh.key, "hello") if text in told]


async def infer(mesh: Mesh, trace: Trace) -> None:
    async with mesh.stubs() as stubs:
        request = inference_pb2.InferRequest(operation="chat/completions", body_json=json.dumps(ASKED))
        metadata = (*bearer(mesh.key), *trace.headers.items())
        assert [message async for message in stubs.inference.Infer(request, metadata=metadata, timeout=SOON)]


async def leave(mesh: Mesh, trace: Trace) -> None:
    """A client that goes when it has seen the beginning of its answer."""
    headers = {"Authorization": f"Bearer {mesh.key}", **trace.headers}
    body = ASKED | {"stream": True, "max_tokens": 30_000}
    async with aiohttp.ClientSession() as session:
        answer = await session.post(mesh.url + CHAT, json=body, headers=headers)
        await answer.content.readline()
        answer.close()


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Simulator]:
    """A simulator that the test makes fail."""
    sim = Simulator("faulty", tmp_path)
    sim.launch()
    yield sim
    sim.clear_away()


async def test_a_call_that_moves_tells_of_both_attempts(start_mesh: StartMesh, faulty: Simulator) -> None:
    async with OtlpSink() as sink:
        mesh = await start_mesh(workers=0, tracing=settings(sink))
        await mesh.add_worker(vllm_url=faulty.url)
        await mesh.add_worker()
        await faulty.fail(status=503)
        for _ in range(2):  # it is the first for one of them
            assert (await ask(mesh, Trace(sink, sampled=False)))[0] == 200
        spans = await sink.wait_for(lambda spans: [span for span in spans if span.name == "chat sim-model"])
        (router,) = [span for span in spans if span.name == "chat sim-model"]
        failed, well = sorted((span for span in spans if span.parent == router.span), key=lambda span: span.start)
        assert [span.status for span in (failed, well, router)] == ["error", "unset", "unset"]
        assert failed.attributes["error.type"] == "upstream_broken"
        assert [span.attributes["http.response.status_code"] for span in (failed, well)] == [503, 200]
        assert [span.attributes["weft.attempt"] for span in (failed, well)] == [1, 2]
        assert failed.attributes["weft.instance"] != well.attributes["weft.instance"]
        (of_worker,) = (await sink.wait_for(lambda spans: [one for one in spans if one.parent == failed.span]))[-1:]
        assert of_worker.trace == router.trace


@pytest.mark.parametrize("mtls", [False, True], ids=["plain", "mtls"])
async def test_what_the_facade_decides_holds_for_the_router(start_mesh: StartMesh, mtls: bool) -> None:
    async with OtlpSink() as sink:
        mesh = await start_mesh(tracing={**settings(sink), "ratio": 0.5, "follow_parent": False}, mtls=mtls)
        traces = [Trace(sink) for _ in range(20)]
        assert [status for status, _ in await asyncio.gather(*(ask(mesh, trace) for trace in traces))] == [200] * 20
        for part in (mesh.facade, mesh.router):
            assert await part.terminate() == 0  # and sends what it has
        by_facade = {span.trace for span in sink.spans if span.service == "weft-facade"}
        assert {span.trace for span in sink.spans if span.service == "weft-router"} == by_facade
        assert by_facade < {trace.id for trace in traces}, "some, and not all"
