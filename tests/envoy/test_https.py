"""The HTTPS front: whole calls, and what clients hear where something is wrong."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.envoy.conftest import StartFront
from tests.testing.edge import CHAT, Echo, Front, events
from tests.testing.mesh import Mesh, StartMesh
from tests.testing.parts import requires_part

pytestmark = requires_part("envoy")

ASKED = {"model": "sim-model", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4}
STREAMED = {**ASKED, "stream": True}
Both = tuple[Mesh, Front]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def files_with(text: str, folder: Path) -> list[tuple[str, int]]:
    """The configuration's files that hold it, with their modes."""
    holding = [path for path in folder.rglob("*.yaml") if text in path.read_text()]
    return [(path.name, path.stat().st_mode & 0o777) for path in holding]


async def told(answer: aiohttp.ClientResponse) -> tuple[int, Any]:
    """Status and error, which must be JSON, and say so."""
    assert answer.content_type == "application/json", await answer.text()
    return answer.status, (await answer.json())["error"]


async def test_a_streamed_chat_by_http_1(plain: Both) -> None:
    mesh, front = plain
    async with front.http() as client, client.post(CHAT, json=STREAMED, headers=bearer(mesh.key)) as answer:
        got = events(await answer.text())
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    assert got[-1] == "[DONE]"
    assert len(got) > 4


async def test_a_streamed_chat_by_http_2(plain: Both) -> None:
    mesh, front = plain
    command = ["curl", "--silent", "--no-buffer", "--http2", "--cacert", str(front.certs / "ca.pem")]
    command += ["--write-out", "%{http_version} %{http_code}", "--header", f"Authorization: Bearer {mesh.key}"]
    command += ["--header", "Content-Type: application/json", "--data", json.dumps(STREAMED)]
    done = await asyncio.to_thread(
        subprocess.run, [*command, f"https://{front.https}{CHAT}"], capture_output=True, text=True, check=True
    )
    body, _, version = done.stdout.rstrip().rpartition("\n")
    assert version == "2 200"
    assert events(body)[-1] == "[DONE]"


async def test_refusals_are_the_facades_own(plain: Both) -> None:
    mesh, front = plain
    async with front.http() as client:
        async with client.post(CHAT, json=ASKED) as answer:
            status, error = await told(answer)
            assert (status, error["code"], answer.headers["www-authenticate"]) == (401, "missing_api_key", "Bearer")
        async with client.post(CHAT, json=ASKED, headers=bearer("weft_abc_def")) as answer:
            status, error = await told(answer)
            assert (status, error["code"]) == (401, "invalid_api_key")
        scoped = await mesh.create_key(allow=["another"])
        async with client.post(CHAT, json=ASKED, headers=bearer(scoped)) as answer:
            status, error = await told(answer)
            assert (status, error["code"]) == (403, "model_forbidden")  # by the router: Envoy sees no model
        async with client.post(CHAT, json={**ASKED, "model": "nobody"}, headers=bearer(mesh.key)) as answer:
            status, error = await told(answer)
            assert (status, error["type"]) == (404, "NotFoundError")


async def test_health_is_told_to_everybody_and_counters_to_nobody(plain: Both) -> None:
    mesh, front = plain
    async with front.http() as client:
        async with client.get("/health") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ready"})
        for headers in ({}, bearer(mesh.key)):
            async with client.get("/metrics", headers=headers) as answer:
                assert (answer.status, answer.content_type) == (401 if not headers else 404, "application/json")


async def test_a_body_that_is_too_large(plain: Both) -> None:
    mesh, front = plain
    body = b'{"model": "sim-model", "x": "' + b"a" * (33 * 1024 * 1024) + b'"}'
    async with front.http() as client:
        async with client.post(CHAT, data=body, headers=bearer(mesh.key), expect100=True) as answer:
            status, error = await told(answer)
        assert (status, error["code"], error["message"]) == (
            413,
            "body_too_large",
            "The request's body is larger than 33554432 bytes.",
        )
        # Of 16 MiB one is taken, whatever the model server says of it.
        large = {**ASKED, "user": "a" * (16 * 1024 * 1024)}
        async with client.post(CHAT, json=large, headers=bearer(mesh.key)) as answer:
            assert answer.status == 200


async def test_what_is_no_http_as_it_should_be(plain: Both) -> None:
    mesh, front = plain
    async with front.http() as client:
        async with client.post(CHAT, json=ASKED, headers={**bearer(mesh.key), "x_weft_principal": "root"}) as answer:
            status, error = await told(answer)
            assert (status, error["code"]) == (400, "header_invalid")
        async with client.post(CHAT, json=ASKED, headers={"x-long": "a" * 70_000}) as answer:
            status, error = await told(answer)
            assert (status, error["code"]) == (431, "headers_too_large")


async def test_a_redirect_stays_with_https(plain: Both) -> None:
    mesh, front = plain
    async with front.http() as client, client.post(CHAT + "/", json=ASKED, headers=bearer(mesh.key)) as answer:
        assert (answer.status, str(answer.url)) == (200, f"https://{front.https}{CHAT}")


async def test_under_messages_errors_have_anthropics_shape(start_envoy: StartFront, plain: Both) -> None:
    mesh, front = plain
    gone = await start_envoy(mesh, facades=["127.0.0.1:9"])
    async with gone.http() as client:
        for path in ("/v1/messages", "/v1/messages/count_tokens?beta=true"):
            async with client.post(path, json=ASKED, headers=bearer(mesh.key)) as answer:
                body = await answer.json()
                assert (answer.status, body["type"], body["error"]["type"]) == (503, "error", "overloaded_error")
        async with client.post("/v1/messages_", json=ASKED, headers=bearer(mesh.key)) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "router_unavailable")
    body = b"a" * (33 * 1024 * 1024)
    async with (
        front.http() as client,
        client.post("/v1/messages", data=body, headers=bearer(mesh.key), expect100=True) as answer,
    ):
        error = (await answer.json())["error"]
        assert (answer.status, error["type"]) == (413, "request_too_large")
        assert "33554432" in error["message"]


async def test_too_many_requests(start_envoy: StartFront, plain: Both) -> None:
    mesh, _ = plain
    front = await start_envoy(mesh, limits={"requests_per_second": 1, "burst": 1})
    async with front.http() as client:

        async def get() -> tuple[int, str | None, Any]:
            async with client.get("/v1/models", headers=bearer(mesh.key)) as answer:
                return answer.status, answer.headers.get("retry-after"), await answer.json()

        # All at once: of requests one after the other, on a busy machine, each may come when another second has begun.
        answers = await asyncio.gather(*(get() for _ in range(10)))
    refused = [answer for answer in answers if answer[0] == 429]
    assert refused
    status, retry_after, body = refused[0]
    assert (status, retry_after, body["error"]["code"]) == (429, "1", "rate_limit_exceeded")


async def test_auth_is_away(start_mesh: StartMesh, start_envoy: StartFront) -> None:
    mesh = await start_mesh(workers=0)
    front = await start_envoy(mesh)
    await mesh.auth.kill()
    async with front.http() as client:
        async with client.post(CHAT, json=ASKED, headers=bearer(mesh.key)) as answer:
            status, error = await told(answer)
            assert (status, error["code"], answer.headers["retry-after"]) == (503, "auth_unavailable", "1")
        async with client.get("/health") as answer:
            assert answer.status == 200  # nobody is asked for that


async def test_no_facade_is_there_and_one_breaks_off(start_envoy: StartFront, plain: Both) -> None:
    mesh, _ = plain
    gone = await start_envoy(mesh, facades=["127.0.0.1:9"])
    async with gone.http() as client, client.get("/v1/models", headers=bearer(mesh.key)) as answer:
        status, error = await told(answer)
        assert (status, error["code"], answer.headers["retry-after"]) == (503, "router_unavailable", "1")
        assert answer.headers["x-request-id"]
    async with Echo().serving() as echo:
        breaking = await start_envoy(mesh, facades=[echo.address])
        async with breaking.http() as client, client.get("/v1/break", headers=bearer(mesh.key)) as answer:
            status, error = await told(answer)
            assert (status, error["code"]) == (502, "upstream_broken")


async def test_the_access_log_tells_no_secret(plain: Both) -> None:
    mesh, front = plain
    headers = {**bearer(mesh.key), "x-request-id": "seen-in-the-log"}
    async with front.http() as client, client.get("/v1/models?api_key=weft_secret", headers=headers) as answer:
        assert answer.status == 200

    async def line() -> str:
        lines = front.access_log.read_text().split("\n")[:-1]  # those that are whole
        return next((one for one in lines if "seen-in-the-log" in one), "")

    written = await mesh.until(line, bool, "Envoy has written its log")
    entry = json.loads(written)
    assert (entry["path"], entry["status"], entry["principal"], entry["front"]) == (
        "/v1/models",
        200,
        "users/dev",
        "https",
    )
    whole = front.access_log.read_text()
    assert "weft_secret" not in whole
    assert mesh.key not in whole


async def test_nothing_secret_is_in_the_configuration(plain: Both) -> None:
    mesh, front = plain
    key = (mesh.home / "service.key").read_text().strip()
    async with aiohttp.ClientSession() as session, session.get(f"http://{front.admin}/config_dump") as answer:
        assert key not in await answer.text()
    assert files_with(key, mesh.home / "envoy") == [("service-key.yaml", 0o600)]


@pytest.mark.parametrize("path", ["/v1/models/a%2Fb", "/v1//models/a/b", "/v1/x/../models/a/b"])
async def test_one_path_for_all_who_judge(plain: Both, path: str) -> None:
    mesh, front = plain
    command = ["curl", "--silent", "--path-as-is", "--cacert", str(front.certs / "ca.pem")]
    command += ["--header", f"Authorization: Bearer {mesh.key}", f"https://{front.https}{path}"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert "a/b" in json.loads(done.stdout)["error"]["message"]
