"""A whole mesh whose parts know each other by certificates, and callers by certificates and by keys."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from typer.testing import CliRunner
from weft.auth.v1 import auth_pb2
from weft.inference.v1 import chat_pb2, inference_pb2, inference_pb2_grpc
from weft.session.v1 import session_pb2
from weft.usage.v1 import usage_pb2, usage_pb2_grpc

from services.cli.app import app
from services.cli.parts import KEYS
from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Head, Request
from services.rpc.certificate import Certificate, CertificateFiles
from services.rpc.errors import from_rpc_error
from services.rpc.link import Link
from services.rpc.peer import Trust
from services.rpc.wire import Secure, Wire
from tests.testing.mesh import Mesh, MeshOptions, StartMesh, hold, let_go
from tests.testing.processes import SOON

RULES = [
    {"pattern": "spiffe://weft/users/alice", "allow_models": ["sim-*"], "allow_operations": ["chat/completions"]},
    {"pattern": "spiffe://weft/users/bob", "allow_models": ["other-*"]},
    {"pattern": "spiffe://weft/users/root", "roles": ["admin"]},
]
BODY = json.dumps({"model": "sim-model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})


OPTIONS: Mapping[str, Any] = {
    "mtls": True,
    "facade": {"wait_for_router_s": 20},  # also one that has just been started again, however slow the machine
    "auth": {"bootstrap_keys": [key for key in KEYS if key["file"] != "service.key"], "certificates": RULES},
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh that has no service key, for all tests that neither stop nor change its parts."""
    shared = hold(tmp_path_factory.mktemp("weft"), MeshOptions(**OPTIONS))
    try:
        asyncio.run(shared.start())
        yield shared
    finally:
        let_go(shared)


def weft(mesh: Mesh, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
    """What a command prints; fails if it does."""
    result = CliRunner().invoke(app, arguments, env={**mesh.environ, **(environ or {})}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def wire(mesh: Mesh, spiffe_id: str) -> Wire:
    """Somebody with a certificate of the mesh's authority."""
    weft(mesh, "certs", "issue", spiffe_id, "--name", "caller")
    folder = mesh.home / "certs"
    files = CertificateFiles(folder / "caller.pem", folder / "caller-key.pem", folder / "ca.pem")
    return Wire(Secure(Certificate(files), Trust("weft")))


async def infer(mesh: Mesh, who: Wire, operation: str = "chat/completions", body: str = BODY) -> Any:
    """The answer to a call without a key."""
    request = inference_pb2.InferRequest(operation=operation, body_json=body)
    async with mesh.stubs("", who) as stubs:
        text = "".join([answer.text async for answer in stubs.inference.Infer(request, **stubs.call)])
    return json.loads(text)


def reason(error: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> Reason:
    return from_rpc_error(error.value, unavailable=Reason.ROUTER_UNAVAILABLE).reason


async def ask(mesh: Mesh) -> str:
    """The answer to a call through the facade, by a key."""
    async with mesh.openai() as client:
        answer = await client.chat.completions.create(
            model="sim-model", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
    return answer.choices[0].message.content or ""


async def test_everybody_is_served_without_a_service_key(mesh: Mesh) -> None:
    assert not (mesh.home / "service.key").exists()
    assert await ask(mesh), "through the facade, by a key"
    alice = wire(mesh, "spiffe://weft/users/alice")
    assert (await infer(mesh, alice))["choices"], "by a certificate alone"
    async with mesh.stubs("", alice) as stubs:
        typed = chat_pb2.ChatRequest(model="sim-model", messages=[{"role": "user", "text": "Hi"}])
        assert (await stubs.inference.Chat(typed, **stubs.call)).choices, "and so is a typed call"
    async with mesh.stubs("", alice) as stubs:
        listed = await stubs.inference.ListModels(inference_pb2.ListModelsRequest(), **stubs.call)
    assert [model.id for model in listed.models] == ["sim-model"]


async def test_a_certificate_calls_what_its_rule_says(mesh: Mesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(
            mesh, wire(mesh, "spiffe://weft/users/alice"), "completions", '{"model": "sim-model", "prompt": ""}'
        )
    assert reason(caught) is Reason.ACTION_FORBIDDEN
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(mesh, wire(mesh, "spiffe://weft/users/bob"))
    assert reason(caught) is Reason.MODEL_FORBIDDEN
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(mesh, wire(mesh, "spiffe://weft/users/carol"))
    assert reason(caught) is Reason.IDENTITY_FORBIDDEN


async def test_a_certificates_calls_are_its_principals(mesh: Mesh) -> None:
    """Also in the records, which the router sends to auth by its certificate alone."""
    await infer(mesh, wire(mesh, "spiffe://weft/users/alice"))
    request = usage_pb2.ListCallsRequest(filter=usage_pb2.CallFilter(principal="users/alice"))

    async def recorded() -> list[usage_pb2.CallRecord]:
        async with mesh.tls.wire("admin", mesh.home).dial(mesh.address("auth"), "auth") as channel:
            answer = await usage_pb2_grpc.UsageServiceStub(channel).ListCalls(request, timeout=SOON)
        return [call for call in answer.records if call.status == 200]

    calls = await mesh.until(recorded, bool, "the call is recorded")
    assert (calls[0].principal, calls[0].credential_kind) == ("users/alice", auth_pb2.CREDENTIAL_KIND_CERTIFICATE)


async def test_a_certificate_administers_where_its_rule_says(mesh: Mesh) -> None:
    for name, refused in (("root", None), ("alice", Reason.ACTION_FORBIDDEN), ("carol", Reason.IDENTITY_FORBIDDEN)):
        async with mesh.stubs("", wire(mesh, f"spiffe://weft/users/{name}")) as stubs:
            for call, request in (
                (stubs.auth.ListKeys, auth_pb2.ListKeysRequest()),
                (stubs.session.ListSessions, session_pb2.ListSessionsRequest()),
            ):
                if refused is None:
                    await call(request, **stubs.call)
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(request, **stubs.call)
                assert reason(caught) is refused


async def test_the_certificates_of_workers_and_facades_open_nothing(mesh: Mesh) -> None:
    for part in ("worker", "facade"):
        async with mesh.stubs("", mesh.tls.wire(part, mesh.home)) as stubs:
            for call, request in (
                (stubs.auth.CreateKey, auth_pb2.CreateKeyRequest(principal="users/mallory")),
                (stubs.auth.Authenticate, auth_pb2.AuthenticateRequest(spiffe_id="spiffe://weft/users/root")),
                (stubs.auth.IssueEnrolmentToken, auth_pb2.IssueEnrolmentTokenRequest()),
                (stubs.session.ListSessions, session_pb2.ListSessionsRequest()),
                (stubs.session.StopSession, session_pb2.StopSessionRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(request, **stubs.call)
                assert reason(caught) is Reason.ACTION_FORBIDDEN


class Ending:
    """A receiver that keeps how its call ended."""

    def __init__(self) -> None:
        self.error: ServiceError | None = None

    def head(self, head: Head) -> None:
        raise AssertionError("it is not served")

    def data(self, chunk: bytes) -> None:
        raise AssertionError("it is not served")

    def end(self) -> None:
        raise AssertionError("it is not served")

    def fail(self, error: ServiceError) -> None:
        self.error = error


@pytest.mark.parametrize("carrier", ["facade", "admin", "spiffe://weft/users/alice"])
async def test_who_carries_calls_lends_them_nothing(mesh: Mesh, carrier: str) -> None:
    who = wire(mesh, carrier) if "://" in carrier else mesh.tls.wire(carrier, mesh.home)
    ending = Ending()

    class Carrier:
        """Sends one call without a key when the router is there."""

        call: Call | None = None

        def hello(self, hello: object) -> None:
            request = Request(
                operation="/v1/chat/completions",
                headers=(
                    ("content-type", "application/json"),
                    ("x-forwarded-client-cert", "URI=spiffe://weft/weft/admin"),
                ),
                body=BODY.encode(),
            )
            self.call = link.mux.open(request, ending, 1024)

        def drain(self) -> None: ...
        def report(self, report: object) -> None: ...
        def stop(self, stop: object) -> None: ...

    link = Link(
        agent="test",
        message=inference_pb2.MultiplexRequest,
        events=Carrier(),
        lost=Reason.ROUTER_UNAVAILABLE,
    )
    async with who.dial(mesh.address("router"), "router") as channel:
        stream = inference_pb2_grpc.InferenceServiceStub(channel).Multiplex()

        async def told() -> ServiceError | None:
            return ending.error

        running = asyncio.ensure_future(link.run(stream))
        error = await mesh.until(told, lambda error: error is not None, "the call is refused")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert error.reason is Reason.CREDENTIAL_MISSING


async def test_http_without_a_key_is_refused(mesh: Mesh) -> None:
    headers = {"x-forwarded-client-cert": "URI=spiffe://weft/weft/admin", "content-type": "application/json"}
    url = f"{mesh.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, data=BODY, headers=headers) as answer:
        assert answer.status == 401


async def test_the_authority_is_replaced_while_the_mesh_runs(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(**OPTIONS)
    before = sorted((session.endpoint, session.instance) for session in await mesh.sessions())
    weft(mesh, "certs", "create")
    assert await ask(mesh)
    weft(mesh, "certs", "create", "--new-ca")
    shown = json.loads(weft(mesh, "certs", "show", "--json"))
    assert len([row for row in shown if row["file"] == "ca.pem"]) == 2
    assert await ask(mesh)
    await mesh.add_worker()
    assert [one for one in before if one not in [(s.endpoint, s.instance) for s in await mesh.sessions()]] == []
    # What is restarted comes by the new one alone.
    ca = mesh.home / "certs" / "ca.pem"
    end = "-----END CERTIFICATE-----\n"
    ca.write_text(ca.read_text().partition(end)[0] + end)
    await mesh.registry.restart()
    await mesh.facade.restart()
    assert await ask(mesh)
    assert (await infer(mesh, wire(mesh, "spiffe://weft/users/alice")))["choices"]
    assert_no_key_in_logs(mesh)


def assert_no_key_in_logs(mesh: Mesh) -> None:
    """Nothing of any private key has been written down."""
    keys = [line for file in (mesh.home / "certs").glob("*-key.pem") for line in _secret_lines(file)]
    for file in (mesh.home / "log").iterdir():
        text = file.read_text()
        assert "PRIVATE KEY" not in text
        assert not any(line in text for line in keys)


def _secret_lines(file: Path) -> Sequence[str]:
    return [line for line in file.read_text().splitlines() if not line.startswith("-----")]


async def test_commands_work_by_the_administrators_certificate(mesh: Mesh) -> None:
    (mesh.home / "dev.key").rename(mesh.home / "kept.key")
    try:
        listed = await asyncio.to_thread(weft, mesh, "keys", "list", "--json")
        overview = json.loads(await asyncio.to_thread(weft, mesh, "status", "--json"))
    finally:
        (mesh.home / "kept.key").rename(mesh.home / "dev.key")
    assert {key["principal"] for key in json.loads(listed)} == {"users/dev", "workers/local"}
    assert (len(overview["endpoints"][0]["workers"]), overview["unreachable"]) == (1, [])
