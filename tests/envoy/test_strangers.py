"""What clients say of themselves, and of others, in headers; and the trace that goes on behind Envoy."""

from __future__ import annotations

import asyncio
import json
import subprocess

import pytest

from tests.envoy.conftest import StartFront
from tests.testing.edge import CHAT, Echo, Front
from tests.testing.mesh import Mesh
from tests.testing.otlp_sink import OtlpSink
from tests.testing.parts import requires_part

pytestmark = requires_part("envoy")

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"

LIES = {
    "x-forwarded-client-cert": "By=spiffe://weft/envoy;URI=spiffe://weft/users/root",
    "x-weft-principal": "users/root",
    "X-Weft-Roles": "admin",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-max-retries": "50",
    "x-envoy-external-address": "10.0.0.1",
    "x-forwarded-user": "root",
    "x-forwarded-email": "root@anl.gov",
    "x-auth-request-user": "root",
    "remote-user": "root",
    "x-original-url": "/metrics",
    "x-rewrite-url": "/metrics",
    "x-forwarded-host": "elsewhere.example.org",
    "x-client-trace-id": "forced",
}


def names_of(body: dict[str, list[list[str]]]) -> set[str]:
    return {name for name, _ in body["headers"]}


def value_of(body: dict[str, list[list[str]]], name: str) -> str:
    """The header, which must be there once."""
    (value,) = [value for found, value in body["headers"] if found == name]
    return value


async def test_no_lie_about_identity_passes(start_envoy: StartFront, plain: tuple[Mesh, Front]) -> None:
    mesh, _ = plain
    async with Echo().serving() as echo:
        front = await start_envoy(mesh, facades=[echo.address])
        headers = {**LIES, "authorization": f"Bearer {mesh.key}", "x-request-id": "mine", "x-forwarded-for": "10.9.8.7"}
        async with front.http() as client, client.get("/v1/models", headers=headers) as answer:
            body = await answer.json()
            told_outside = {name.lower() for name in answer.headers}
    assert not names_of(body) & {name.lower() for name in LIES}
    assert not [name for name in told_outside if name.startswith("x-envoy")]
    assert value_of(body, "x-request-id") == "mine"
    before, seen = value_of(body, "x-forwarded-for").rsplit(",", 1)
    assert (before, seen != before) == ("10.9.8.7", True)  # the last is what Envoy has seen itself
    assert value_of(body, "x-forwarded-proto") == "https"


async def test_two_credentials_and_none_of_them(plain: tuple[Mesh, Front]) -> None:
    mesh, front = plain
    twice = [("authorization", "Bearer weft_a_b"), ("authorization", f"Bearer {mesh.key}")]
    async with front.http() as client:
        async with client.get("/v1/models", headers=twice) as answer:
            # Envoy makes one of two, which is nobody's.
            assert (answer.status, (await answer.json())["error"]["code"]) == (401, "invalid_api_key")
        async with client.get("/v1/models", headers=LIES) as answer:
            assert answer.status == 401


@pytest.mark.parametrize("host", ["elsewhere.example.org", "127.0.0.1:9901", "localhost.", "auth"])
async def test_whatever_the_host_there_is_one_mesh(plain: tuple[Mesh, Front], host: str) -> None:
    mesh, front = plain
    async with front.http() as client:
        async with client.get("/v1/models", headers={"host": host}) as answer:
            assert answer.status == 401
        async with client.get("/stats", headers={"host": host, "authorization": f"Bearer {mesh.key}"}) as answer:
            assert answer.status == 404


async def test_a_request_is_not_smuggled_behind_another(plain: tuple[Mesh, Front]) -> None:
    mesh, front = plain
    command = ["curl", "--silent", "--http1.1", "--cacert", str(front.certs / "ca.pem")]
    command += ["--header", f"Authorization: Bearer {mesh.key}", "--header", "Transfer-Encoding: chunked"]
    command += ["--header", "Content-Length: 4", "--data", "{}", f"https://{front.https}{CHAT}"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["error"]["code"] == "header_invalid"


async def test_a_trace_passes_unchanged_where_envoy_has_no_collector(
    start_envoy: StartFront, plain: tuple[Mesh, Front]
) -> None:
    mesh, _ = plain
    async with Echo().serving() as echo:
        front = await start_envoy(mesh, facades=[echo.address])
        headers = {"authorization": f"Bearer {mesh.key}", "traceparent": TRACEPARENT, "tracestate": "vendor=1"}
        async with front.http() as client, client.get("/v1/models", headers=headers) as answer:
            body = await answer.json()
    assert (value_of(body, "traceparent"), value_of(body, "tracestate")) == (TRACEPARENT, "vendor=1")


async def test_one_trace_from_the_client_over_envoy_to_the_mesh(
    start_envoy: StartFront, plain: tuple[Mesh, Front]
) -> None:
    mesh, _ = plain
    async with Echo().serving() as echo, OtlpSink() as sink:
        tracing = {"endpoint": f"http://{sink.grpc_address}", "ratio": 1.0}
        front = await start_envoy(mesh, facades=[echo.address], other={"tracing": tracing})
        headers = {"authorization": f"Bearer {mesh.key}", "traceparent": TRACEPARENT, "tracestate": "vendor=1"}
        async with front.http() as client:
            async with client.get("/v1/models?key=hidden", headers=headers) as answer:
                followed = await answer.json()
            unsampled = {**headers, "traceparent": TRACEPARENT[:-1] + "0"}
            async with client.get("/v1/models", headers=unsampled) as answer:
                passed = await answer.json()
            del headers["traceparent"], headers["tracestate"]
            async with client.get("/v1/models", headers=headers) as answer:
                begun = await answer.json()
        version, trace, span, flags = value_of(followed, "traceparent").split("-")
        assert (version, trace, flags) == ("00", TRACE, "01")
        assert value_of(followed, "tracestate") == "vendor=1"
        assert value_of(passed, "traceparent").split("-")[1::2] == [TRACE, "00"]
        _, new_trace, new_span, new_flags = value_of(begun, "traceparent").split("-")
        assert (new_trace != TRACE, new_flags) == (True, "01")

        spans = await sink.wait_for(lambda spans: {span, new_span} <= {one.span for one in spans})
    by_id = {one.span: one for one in spans}
    assert (by_id[span].service, by_id[span].trace, by_id[span].parent) == ("weft-envoy", TRACE, SPAN)
    assert (by_id[new_span].trace, by_id[new_span].parent) == (new_trace, "")
    assert by_id[span].attributes["url.path"] == "/v1/models"
    assert "hidden" not in repr(spans)
