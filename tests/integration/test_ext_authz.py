"""Auth asked as Envoy asks: over gRPC, by a real auth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from weft.auth.v1 import auth_pb2, auth_pb2_grpc
from weft.third_party.envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

from services.auth.ext_authz import IDENTITY_HEADERS
from services.core.errors import Reason
from services.rpc.channel import bearer, dial
from services.rpc.errors import from_rpc_error
from tests.testing.mesh import Mesh, MeshOptions, hold, let_go
from tests.testing.processes import SOON

CHAT = "/v1/chat/completions"
CREATE_KEY = "/weft.auth.v1.AuthService/CreateKey"
ALICE = "spiffe://weft/users/alice"
RULES = [{"pattern": ALICE, "allow_models": ["*"]}]


@dataclass(frozen=True, slots=True)
class Envoy:
    """Asks as Envoy does."""

    mesh: Mesh
    auth: auth_pb2_grpc.AuthServiceStub
    stub: external_auth_pb2_grpc.AuthorizationStub

    async def check(
        self,
        path: str = CHAT,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        peer: str = "",
        raw: tuple[tuple[str, str], ...] = (),
    ) -> external_auth_pb2.CheckResponse:
        request = external_auth_pb2.CheckRequest()
        http = request.attributes.request.http
        http.method, http.path = method, path
        http.headers.update(headers or {})
        for key, value in raw:
            http.header_map.headers.add(key=key, raw_value=value.encode())
        request.attributes.source.principal = peer
        key = (self.mesh.home / "service.key").read_text().strip()
        return await self.stub.Check(request, metadata=bearer(key), timeout=SOON)

    async def key(self, **fields: Any) -> str:
        request = auth_pb2.CreateKeyRequest(**{"principal": "users/ada", **fields})
        made = await self.auth.CreateKey(request, metadata=bearer(self.mesh.key), timeout=SOON)
        return made.key


@pytest.fixture(scope="module")
def only_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    options = MeshOptions(services=("auth",), workers=0, auth={"certificates": RULES})
    mesh = hold(tmp_path_factory.mktemp("auth"), options)
    try:
        asyncio.run(mesh.start())
        yield mesh
    finally:
        let_go(mesh)


@pytest.fixture
async def envoy(only_auth: Mesh) -> AsyncIterator[Envoy]:
    async with dial(only_auth.address("auth")) as channel:
        auth, check = auth_pb2_grpc.AuthServiceStub(channel), external_auth_pb2_grpc.AuthorizationStub(channel)
        yield Envoy(only_auth, auth, check)


def by(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def denied(answer: external_auth_pb2.CheckResponse) -> tuple[int, str, dict[str, str]]:
    """Status, OpenAI's code, headers."""
    assert answer.status.code
    response = answer.denied_response
    headers = {header.header.key: header.header.value for header in response.headers}
    assert headers["content-type"] == "application/json"
    error = json.loads(response.body)["error"]
    assert error["message"] == answer.status.message
    return response.status.code, error["code"], headers


async def test_who_is_known_passes_without_headers_that_say_who_it_is(envoy: Envoy) -> None:
    answer = await envoy.check(headers=by(await envoy.key()))
    assert answer.status.code == 0
    assert tuple(answer.ok_response.headers_to_remove) == IDENTITY_HEADERS
    assert answer.dynamic_metadata["principal"] == "users/ada"
    assert not answer.ok_response.headers


async def test_a_stranger_is_unknown(envoy: Envoy) -> None:
    status, code, headers = denied(await envoy.check())
    assert (status, code, headers["www-authenticate"]) == (401, "missing_api_key", "Bearer")
    status, code, headers = denied(await envoy.check(headers=by("weft_abc_def")))
    assert (status, code, headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")


async def test_who_is_denied_is_known_and_refused(envoy: Envoy) -> None:
    key = await envoy.key(principal="users/eve")
    denial = auth_pb2.DenyPrincipalRequest(principal="users/eve")
    await envoy.auth.DenyPrincipal(denial, metadata=bearer(envoy.mesh.key), timeout=SOON)
    status, code, headers = denied(await envoy.check(headers=by(key)))
    assert (status, code) == (403, "identity_forbidden")
    assert "www-authenticate" not in headers


async def test_the_scope_of_a_key_holds_where_the_path_tells(envoy: Envoy) -> None:
    key = await envoy.key(permissions={"allow_models": ["*"], "allow_operations": ["embeddings"]})
    assert (await envoy.check("/v1/embeddings?x=1", by(key))).status.code == 0
    assert denied(await envoy.check(CHAT, by(key)))[:2] == (403, "action_forbidden")


async def test_errors_have_the_shape_of_the_route(envoy: Envoy) -> None:
    answer = await envoy.check("/v1/messages", {"x-api-key": "weft_abc_def"})
    assert json.loads(answer.denied_response.body)["error"]["type"] == "authentication_error"


async def test_the_roles_of_grpc(envoy: Envoy) -> None:
    grpc_headers = {"content-type": "application/grpc+proto"}
    assert (await envoy.check(CREATE_KEY, {**grpc_headers, **by(envoy.mesh.key)})).status.code == 0
    answer = await envoy.check(CREATE_KEY, {**grpc_headers, **by(await envoy.key())})
    assert answer.status.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert answer.denied_response.status.code == 403
    assert answer.denied_response.body == answer.status.message
    assert "content-type" not in [header.header.key for header in answer.denied_response.headers]


async def test_what_is_open_to_all_passes(envoy: Envoy) -> None:
    for path in ("/health", "/resource_server/status", "/grpc.health.v1.Health/Check"):
        assert (await envoy.check(path)).status.code == 0, path


async def test_the_certificate_that_envoy_verified_counts_after_a_credential(envoy: Envoy) -> None:
    answer = await envoy.check(peer=ALICE)
    assert answer.dynamic_metadata["principal"] == "users/alice"
    answer = await envoy.check(headers=by(await envoy.key()), peer=ALICE)
    assert answer.dynamic_metadata["principal"] == "users/ada"
    assert denied(await envoy.check(headers=by("weft_abc_def"), peer=ALICE))[0] == 401
    for peer in ("spiffe://weft/users/mallory", "spiffe://elsewhere/users/alice", "spiffe://weft/weft/admin"):
        assert denied(await envoy.check(peer=peer))[:2] == (403, "identity_forbidden"), peer
    assert denied(await envoy.check(peer="CN=alice"))[:2] == (401, "missing_api_key")


async def test_headers_do_not_say_who_somebody_is(envoy: Envoy) -> None:
    forged = {
        "x-forwarded-client-cert": f"URI={ALICE}",
        "x-weft-principal": "users/dev",
        "x-forwarded-user": "users/dev",
    }
    assert denied(await envoy.check(headers=forged))[:2] == (401, "missing_api_key")


async def test_two_credentials_are_none(envoy: Envoy) -> None:
    key = await envoy.key()
    for twice in (
        (("authorization", f"Bearer {key}"), ("Authorization", "Bearer other")),
        (("x-api-key", key), ("X-Api-Key", "other")),
    ):
        answer = await envoy.check(raw=twice)
        assert answer.denied_response.status.code == 400
    joined = {"authorization": f"Bearer {key},Bearer {key}"}  # as Envoy joins them
    assert denied(await envoy.check(headers=joined))[:2] == (401, "invalid_api_key")


@pytest.mark.parametrize("asker", ["nobody", "a user", "an administrator", "a stranger"])
async def test_only_services_ask(envoy: Envoy, asker: str) -> None:
    key = {
        "nobody": "",
        "a user": await envoy.key(),
        "an administrator": envoy.mesh.key,
        "a stranger": "weft_abc_def",
    }[asker]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await envoy.stub.Check(external_auth_pb2.CheckRequest(), metadata=bearer(key), timeout=SOON)
    expected = {
        "nobody": Reason.CREDENTIAL_MISSING,
        "a user": Reason.ACTION_FORBIDDEN,
        "an administrator": Reason.ACTION_FORBIDDEN,
        "a stranger": Reason.CREDENTIAL_INVALID,
    }
    assert from_rpc_error(caught.value, unavailable=Reason.AUTH_UNAVAILABLE).reason is expected[asker]
    assert asker != "nobody" or "tls.envoy_ids" in str(caught.value.details()), "it is Envoy's operator who reads it"
