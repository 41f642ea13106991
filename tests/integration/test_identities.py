"""People with tokens of Globus and of another issuer call a mesh of real processes; its outages, and its end."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from weft.auth.v1 import auth_pb2

from services.rpc.access import quota_from_proto
from services.rpc.policy import policy_from_proto
from tests.testing.globus_auth import App, GlobusAuth
from tests.testing.mesh import Mesh, MeshOptions, StartMesh, hold, let_go
from tests.testing.oidc_issuer import OidcIssuer

SECRET = "globus-client-s3cret-of-this-mesh"
KEPT = 8
"""Seconds that auth keeps what Globus said; an outage must begin, and a call be answered, well within them."""


@pytest.fixture
def globus(monkeypatch: pytest.MonkeyPatch) -> Iterator[GlobusAuth]:
    with GlobusAuth() as globus:
        for name, value in {**globus.environ, "GLOBUS_SECRET_OF_TEST": SECRET}.items():
            monkeypatch.setenv(name, value)
        yield globus


@pytest.fixture
def weft(globus: GlobusAuth) -> App:
    return globus.add_app("weft", SECRET)


@pytest.fixture
def issuer() -> Iterator[OidcIssuer]:
    with OidcIssuer() as issuer:
        yield issuer


def settings(weft: App, issuer: OidcIssuer | None = None, **policy: Any) -> dict[str, Any]:
    issuers = [{"name": "corp", "issuer": issuer.url, "audiences": ["weft"], "domains": ["anl.gov"]}] if issuer else []
    return {
        "globus": {"client_id": weft.id, "client_secret_env": "GLOBUS_SECRET_OF_TEST"},
        "issuers": issuers,
        "policy": {"allowed_domains": ["anl.gov"], **policy},
        "quotas": [{"subject": "users/*", "requests_per_second": 1000}],
    }


async def ask(mesh: Mesh, token: str, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    """What a call of the model, or another page, is answered: its status, and the error's code or the body."""
    body = {"model": "sim-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    post = path.startswith("/v1/")
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
        session.request("POST" if post else "GET", f"{mesh.url}{path}", json=body if post else None) as response,
    ):
        said = await response.json()
        return response.status, said["error"]["code"] if response.status >= 400 else said


async def test_people_call_a_model(globus: GlobusAuth, weft: App, issuer: OidcIssuer, start_mesh: StartMesh) -> None:
    alice, bob = globus.add_person("alice@anl.gov", name="Alice Ames"), globus.add_person("bob@gmail.com")
    group = globus.join(alice)
    robot = globus.add_app("robot", "r0b0t-secret")
    policy = {"service_accounts": [f"services/{robot.id}"], "administrators": [f"groups/{group}"]}
    mesh = await start_mesh(auth=settings(weft, issuer, **policy))
    token = globus.token(alice, weft)

    status, answer = await ask(mesh, token)
    assert (status, answer["object"]) == (200, "chat.completion")
    assert (await ask(mesh, globus.token(robot, weft)))[0] == 200
    assert (await ask(mesh, issuer.token(sub="carol@anl.gov")))[0] == 200
    assert await ask(mesh, globus.token(bob, weft)) == (403, "identity_forbidden")
    assert await ask(mesh, issuer.token(sub="eve")) == (403, "identity_forbidden")
    assert await ask(mesh, issuer.token(aud="other")) == (401, "invalid_api_key")
    assert await ask(mesh, globus.token(alice, robot)) == (401, "invalid_api_key")
    assert await ask(mesh, "Ag" + "x" * 80) == (401, "invalid_api_key")

    assert await ask(mesh, token, "/resource_server/whoami") == (
        200,
        {
            "id": alice.identities[0].id,
            "name": "Alice Ames",
            "username": "alice@anl.gov",
            "user_group_uuids": [group],
            "idp_id": alice.identities[0].provider,
            "idp_name": "Provider of anl.gov",
            "auth_service": "globus",
        },
    )
    async with mesh.stubs(token) as stubs:  # Alice administers, by her group.
        told = await stubs.auth.GetPolicy(auth_pb2.GetPolicyRequest(), **stubs.call)
        mesh_policy = policy_from_proto(told)
        assert mesh_policy.access.allowed_domains == ("anl.gov",)
        assert mesh_policy.administrators == (f"groups/{group}",)
        seen = await stubs.auth.GetPrincipal(auth_pb2.GetPrincipalRequest(name="users/carol@anl.gov"), **stubs.call)
        assert seen.principal.identity.kind == auth_pb2.CREDENTIAL_KIND_OIDC
        assert seen.HasField("last_use_time")
        assert not seen.denied
        (quota,) = seen.principal.quotas
        assert (quota.subject, quota_from_proto(quota.quota).requests_per_second) == ("users/carol@anl.gov", 1000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.auth.GetPrincipal(auth_pb2.GetPrincipalRequest(name="users/nobody"), **stubs.call)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        deny = auth_pb2.DenyPrincipalRequest(principal="users/carol@anl.gov")
        await stubs.auth.DenyPrincipal(deny, **stubs.call)

    async def carol() -> tuple[int, Any]:
        return await ask(mesh, issuer.token(sub="carol@anl.gov"))

    await mesh.until(carol, lambda got: got == (403, "identity_forbidden"), "Carol is denied, also by a fresh token")
    # What was seen outlives auth's end.
    await mesh.auth.restart()
    async with mesh.stubs() as stubs:
        known = await stubs.auth.GetPrincipal(auth_pb2.GetPrincipalRequest(name="users/alice@anl.gov"), **stubs.call)
    assert list(known.principal.identity.groups) == [group]
    assert auth_pb2.ROLE_ADMIN in known.principal.roles


async def test_a_login_that_is_too_old(globus: GlobusAuth, weft: App, start_mesh: StartMesh) -> None:
    alice = globus.add_person("alice@anl.gov")
    mesh = await start_mesh(auth=settings(weft, max_session_age_s=3600, require_mfa=True))
    sessions = {
        "good": globus.session(alice, mfa=True),
        "old": globus.session(alice, mfa=True, age=7200),
        "weak": globus.session(alice),
    }
    got = {name: await ask(mesh, globus.token(alice, weft, session=session)) for name, session in sessions.items()}
    assert got["good"][0] == 200
    assert got["old"] == got["weak"] == (403, "session_insufficient")


@pytest.mark.parametrize("status", [0, 503])
async def test_an_outage_of_globus(globus: GlobusAuth, weft: App, start_mesh: StartMesh, status: int) -> None:
    alice, bob = globus.add_person("alice@anl.gov"), globus.add_person("bob@anl.gov")
    auth = settings(weft)
    mesh = await start_mesh(auth={**auth, "globus": {**auth["globus"], "kept_for_s": KEPT}})
    known, unknown = globus.token(alice, weft), globus.token(bob, weft)
    assert (await ask(mesh, known))[0] == 200
    globus.fail("/", status)
    assert (await ask(mesh, known))[0] == 200
    assert await ask(mesh, unknown) == (503, "auth_unavailable")

    async def again() -> tuple[int, Any]:
        return await ask(mesh, known)

    # Until what auth knows of them ends, also in the router's memory.
    await mesh.until(again, lambda got: got == (503, "auth_unavailable"), "a known caller is known no longer")
    globus.heal()
    assert (await ask(mesh, unknown))[0] == 200
    assert (await ask(mesh, known))[0] == 200


async def test_auth_ends_while_globus_hangs(globus: GlobusAuth, weft: App, start_mesh: StartMesh) -> None:
    alice = globus.add_person("alice@anl.gov")
    auth = settings(weft)
    mesh = await start_mesh(auth={**auth, "globus": {**auth["globus"], "timeout_s": 3600}}, workers=0, grace=0.5)
    globus.hold("/")
    call = asyncio.ensure_future(ask(mesh, globus.token(alice, weft)))
    await asyncio.to_thread(globus.until_held)
    assert await mesh.auth.terminate() == 0
    assert await call == (503, "auth_unavailable")


async def test_no_token_and_no_secret_in_any_log(globus: GlobusAuth, weft: App, tmp_path: Path) -> None:
    (tmp_path / "weft.yaml").write_text("log: {level: debug}")
    alice = globus.add_person("alice@anl.gov")
    good, bad = globus.token(alice, weft), "Ag" + "wr0ng" * 16
    mesh = hold(tmp_path, MeshOptions(auth=settings(weft)))
    try:
        await mesh.start()
        assert (await ask(mesh, good))[0] == 200
        assert (await ask(mesh, bad))[0] == 401
        globus.fail("/", 500)
        assert (await ask(mesh, globus.token(alice, weft)))[0] == 503
        logs = {part.name: read(part.spec.log_file) for part in mesh.parts}
        commands = read(Path(f"/proc/{mesh.auth.pid}/cmdline"))
    finally:
        let_go(mesh)
    assert "introspect" in logs["auth"]  # The SDK's own debug log is in it.
    secrets = [SECRET, good, bad, *globus.tokens]
    assert not [name for name, log in logs.items() if any(secret in log for secret in secrets)]
    assert SECRET not in commands


def read(file: Path) -> str:
    return file.read_bytes().decode(errors="replace")
