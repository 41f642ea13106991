"""What attackers try: to be somebody else, by headers or by others' tokens, and to find secrets where none belong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from weft.auth.v1 import auth_pb2
from weft.inference.v1 import inference_pb2
from weft.session.v1 import session_pb2

from services.auth import keys
from services.auth.keys import Key
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error
from tests.testing.mesh import ENDPOINT, Mesh, MeshOptions, hold, let_go
from tests.testing.processes import SOON
from tests.testing.wire import Reply, Wire

CHAT = "/v1/chat/completions"
OTHER = "clusters/local/endpoints/other"
MARK = "MARKED" + secrets.token_hex(8)
BODY = json.dumps(
    {"model": "sim-model", "messages": [{"role": "user", "content": f"prompt {MARK}"}], "max_tokens": 4}
).encode()


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh that logs all that it can."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WEFT_LOG__LEVEL", "debug")
        mesh = hold(tmp_path_factory.mktemp("loud"), MeshOptions(endpoints=(ENDPOINT, OTHER)))
        try:
            asyncio.run(mesh.start())
            yield mesh
        finally:
            let_go(mesh)


async def whoami(mesh: Mesh, *headers: str) -> Reply:
    """FIRST's whoami, with header lines as they stand."""
    lines = "".join(f"{header}\r\n" for header in headers)
    async with Wire(mesh.url) as wire:
        await wire.send(f"GET /resource_server/whoami HTTP/1.1\r\nHost: weft\r\n{lines}\r\n".encode())
        return await wire.reply()


FORGED = (
    "X-Forwarded-Client-Cert: By=spiffe://weft/edge/envoy;URI=spiffe://weft/weft/admin",
    "X-Forwarded-User: users/dev",
    "X-Forwarded-For: 127.0.0.1",
    "X-Weft-Principal: users/dev",
    "Weft-Principal: users/dev",
    "Remote-User: dev",
    "X-Remote-User: dev",
)


@pytest.mark.parametrize("forged", FORGED)
async def test_no_header_makes_somebody_of_nobody(loud: Mesh, forged: str) -> None:
    assert (await whoami(loud, forged)).status == 401


async def test_no_header_makes_somebody_else_of_a_user(loud: Mesh) -> None:
    key = await loud.create_key()
    reply = await whoami(loud, *FORGED, f"Authorization: Bearer {key}")
    assert reply.json()["username"] == "tester"


@pytest.mark.parametrize(
    "header", ["AUTHORIZATION: bearer {}", "authorization:Bearer   {}  ", "aUthorization:\tBEARER {}"]
)
async def test_a_credential_is_read_however_it_is_written(loud: Mesh, header: str) -> None:
    reply = await whoami(loud, header.format(loud.key))
    assert (reply.status, reply.json().get("username")) == (200, "dev")


@pytest.mark.parametrize(
    "header", ["Authorization: Basic {}", "Authorization: {}", "Authorization: Bearer", "X-Api-Token: {}"]
)
async def test_what_is_no_bearer_token_is_none(loud: Mesh, header: str) -> None:
    assert (await whoami(loud, header.format(loud.key))).status == 401


@pytest.mark.parametrize("order", [0, 1])
async def test_two_credentials_over_http_are_refused(loud: Mesh, order: int) -> None:
    both = [f"Authorization: Bearer {loud.key}", f"Authorization: Bearer {await loud.create_key()}"]
    reply = await whoami(loud, *(both if order else reversed(both)))
    assert (reply.status, reply.json()["error"]["code"]) == (400, "header_invalid")


async def test_a_request_within_a_body_is_no_request(loud: Mesh) -> None:
    """Both lengths in one request: a front that reads the other one would take the rest for somebody's next request."""
    inner = f"GET /resource_server/whoami HTTP/1.1\r\nHost: weft\r\nAuthorization: Bearer {loud.key}\r\n\r\n"
    head = f"POST {CHAT} HTTP/1.1\r\nHost: weft\r\nContent-Length: {len(inner)}\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with Wire(loud.url) as wire:
        await wire.send(f"{head}0\r\n\r\n{inner}".encode())
        assert (await wire.reply()).status in (400, 401)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError, IndexError, TimeoutError)):
            assert (await wire.reply()).status != 200


async def test_of_two_credentials_over_grpc_the_first_counts(loud: Mesh) -> None:
    key = await loud.create_key()
    twins = (*bearer(key), *bearer(loud.key), ("weft-principal", "users/dev"), ("x-weft-roles", "admin"))
    async with loud.stubs() as stubs:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.auth.ListKeys(auth_pb2.ListKeysRequest(), metadata=twins, timeout=SOON)
    assert from_rpc_error(caught.value, unavailable=Reason.INTERNAL).reason is Reason.ACTION_FORBIDDEN


async def test_a_session_token_speaks_for_its_own_endpoint_alone(loud: Mesh) -> None:
    worker = (loud.home / "worker.key").read_text().strip()
    async with loud.stubs() as stubs:
        request = session_pb2.EnrolRequest(endpoint=ENDPOINT, instance="mine")
        token = (await stubs.session.Enrol(request, metadata=bearer(worker), timeout=SOON)).token
        for endpoint, instance in ((OTHER, "mine"), (ENDPOINT, "another")):
            replay = session_pb2.EnrolRequest(endpoint=endpoint, instance=instance)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stubs.session.Enrol(replay, metadata=bearer(token), timeout=SOON)
            assert from_rpc_error(caught.value, unavailable=Reason.INTERNAL).reason is Reason.ACTION_FORBIDDEN


async def test_an_enrolment_token_admits_one_worker(loud: Mesh) -> None:
    service = bearer((loud.home / "service.key").read_text().strip())
    async with loud.stubs() as stubs:
        wanted = auth_pb2.IssueEnrolmentTokenRequest(start="replay", endpoint=ENDPOINT, lifetime={"seconds": 60})
        token = (await stubs.auth.IssueEnrolmentToken(wanted, metadata=service, timeout=SOON)).token
        first = session_pb2.EnrolRequest(endpoint=ENDPOINT, instance="first")
        await stubs.session.Enrol(first, metadata=bearer(token), timeout=SOON)
        for endpoint, instance in ((ENDPOINT, "second"), (OTHER, "first")):
            replay = session_pb2.EnrolRequest(endpoint=endpoint, instance=instance)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stubs.session.Enrol(replay, metadata=bearer(token), timeout=SOON)
            assert from_rpc_error(caught.value, unavailable=Reason.INTERNAL).kind.http in (401, 403)


@pytest.mark.parametrize("verdict", [True, False])
def test_secrets_are_compared_in_constant_time_and_by_nothing_else(
    monkeypatch: pytest.MonkeyPatch, verdict: bool
) -> None:
    """Whatever `hmac.compare_digest` says is what counts: were the secret compared by anything beside it, the answer
    would not follow.
    """
    compared: list[tuple[bytes, bytes]] = []
    credential, identity, hashed = keys.new_key()
    secret = credential.split("_", 2)[2]

    def compare(one: bytes, another: bytes) -> bool:
        compared.append((one, another))
        return verdict

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    key = Key(identity, hashed, Principal("users/ada"), "", 0.0)
    if verdict:
        assert keys.judge(key, "not the secret", 0.0) is key
    else:
        with pytest.raises(ServiceError):
            keys.judge(key, secret, 0.0)
    compared.clear()
    with pytest.raises(ServiceError):
        keys.judge(None, secret, 0.0)
    assert compared, "how long it takes would tell which ids exist"


# Leaks


async def test_secrets_are_nowhere_but_where_they_belong(loud: Mesh) -> None:
    key = await loud.create_key()
    wrong = f"weft_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
    told = [await _every_kind_of_call(loud, credential) for credential in (key, wrong, "")]
    service, worker = ((loud.home / f"{who}.key").read_text().strip() for who in ("service", "worker"))
    request = session_pb2.EnrolRequest(endpoint=ENDPOINT, instance="leaks")
    async with loud.stubs() as stubs:
        session = (await stubs.session.Enrol(request, metadata=bearer(worker), timeout=SOON)).token
    # Of keys the id in the middle may be told, and their beginning with it.
    marked = {
        MARK: "a prompt",
        session: "a session token",
        **{one.split("_", 2)[2]: "a key" for one in (key, wrong, service, worker, loud.key)},
    }
    places = {f"log of {part.name}": part.log for part in loud.parts}
    places |= {f"answer {number}": text for number, text in enumerate(told)}
    places |= _records(loud.home)
    places |= _processes(loud)
    assert len([place for place in places if place.startswith("log of")]) == len(loud.parts)
    found = [
        f"{what} in {place}" for secret, what in marked.items() for place, text in places.items() if secret in text
    ]
    assert found == []


async def _every_kind_of_call(mesh: Mesh, credential: str) -> str:
    """What errors say; answers belong to the caller."""
    told: list[str] = []
    headers = {"authorization": f"Bearer {credential}"} if credential else {}
    async with aiohttp.ClientSession(mesh.url, headers=headers) as client:
        for path in (CHAT, "/v1/embeddings", "/v1/messages", "/resource_server/local/vllm" + CHAT):
            async with client.post(path, data=BODY) as answer:
                told += [await answer.text()] if answer.status >= 400 else []
        async with client.post(CHAT, data=b"{" + BODY) as answer:
            told.append(await answer.text())
    async with mesh.stubs() as stubs:
        calls: list[Callable[[], Any]] = [
            lambda: stubs.auth.ListKeys(auth_pb2.ListKeysRequest(), metadata=bearer(credential), timeout=SOON),
            lambda: stubs.inference.ListModels(
                inference_pb2.ListModelsRequest(), metadata=bearer(credential), timeout=SOON
            ),
        ]
        for call in calls:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                told += [repr(error), str(from_rpc_error(error, unavailable=Reason.INTERNAL))]
    return "\n".join(told)


def _records(home: Path) -> dict[str, str]:
    """Whatever a mesh writes, but for the keys' own files: databases and their journals, records of use, audit logs."""
    texts: dict[str, str] = {}
    for file in home.rglob("*"):
        if file.is_file() and file.suffix != ".key":
            with contextlib.suppress(FileNotFoundError):  # of records of use that auth has, and of journals, none stays
                texts[str(file)] = file.read_bytes().decode("latin-1")
    return texts


def _processes(mesh: Mesh) -> dict[str, str]:
    """What `ps` shows of the mesh's processes, and of their children."""
    shown: dict[str, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes().decode("latin-1")
            if str(mesh.home) in environ:
                shown[f"environ of {process.name}"] = environ
                shown[f"cmdline of {process.name}"] = (process / "cmdline").read_bytes().decode("latin-1")
        except OSError:
            continue  # it has ended
    assert shown
    return shown
