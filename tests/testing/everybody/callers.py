"""Makes every kind of caller on a mesh that runs: what each shows as its bearer token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from weft.auth.v1 import auth_pb2
from weft.registry.v1 import registry_pb2, resources_pb2
from weft.session.v1 import session_pb2

from services.rpc.channel import bearer
from tests.testing.globus_auth import App, GlobusAuth
from tests.testing.mesh import ENDPOINT, Mesh, Stubs
from tests.testing.processes import SOON

OTHER_ENDPOINT: Final = "clusters/local/endpoints/other"
DOMAIN: Final = "anl.gov"
SESSION_AGE: Final = 3600.0
INSTANCE: Final = "everybody"


def auth_settings(globus: GlobusAuth, gateway: App, listed: App, secret_file: str) -> dict[str, Any]:
    """Auth's section: people of one domain who logged in within the hour, and one service account."""
    globus_settings = {"client_id": gateway.id, "client_secret_file": secret_file}
    service_accounts = [f"services/{listed.id}"]
    policy = {"allowed_domains": [DOMAIN], "max_session_age_s": SESSION_AGE, "service_accounts": service_accounts}
    return {"globus": globus_settings, "policy": policy}


async def make_callers(mesh: Mesh, globus: GlobusAuth, gateway: App, listed: App) -> dict[str, str]:
    """The bearer token of every kind of caller, by the names in the table; empty for none."""
    alice, carol = globus.add_person(f"alice@{DOMAIN}"), globus.add_person(f"carol@{DOMAIN}")
    group = globus.join(alice)
    globus.join(carol)
    async with mesh.stubs() as stubs:
        await _restrict(stubs, group, ["users/ada", "users/dev", f"services/{listed.id}"])
        people = {
            "user": globus.token(alice, gateway),
            "other group": globus.token(carol, gateway),
            "other domain": globus.token(globus.add_person("bob@example.org"), gateway),
            "stale session": globus.token(alice, gateway, session=globus.session(alice, age=2 * SESSION_AGE)),
            "token of another service": globus.token(alice, globus.add_app("another", secret="x")),
            "service account": globus.token(listed, gateway),
            "unlisted service account": globus.token(globus.add_app("robot", secret="x"), gateway),
        }
        keys = await _keys(stubs)
        worker = (mesh.home / "worker.key").read_text().strip()
        request = session_pb2.EnrolRequest(endpoint=ENDPOINT, instance=INSTANCE)
        session = await stubs.session.Enrol(request, metadata=bearer(worker), timeout=SOON)
        return {
            "none": "",
            "bad key": "weft_0000000000000000_nothing",
            **people,
            **keys,
            "worker": worker,
            "session token": session.token,
            "service": (mesh.home / "service.key").read_text().strip(),
            "administrator": mesh.key,
        }


async def _restrict(stubs: Stubs, group: str, principals: Sequence[str]) -> None:
    """Lets only a group, and some principals, use the endpoint."""
    access = resources_pb2.AccessPolicy(allowed_globus_groups=[group], allowed_principals=principals)
    endpoint = resources_pb2.Endpoint(name=ENDPOINT, access=access)
    request = registry_pb2.UpdateEndpointRequest(endpoint=endpoint)
    request.update_mask.paths.append("access")
    await stubs.registry.UpdateEndpoint(request, **stubs.call)


async def _keys(stubs: Stubs) -> dict[str, str]:
    async def make(principal: str, **fields: Any) -> auth_pb2.CreateKeyResponse:
        answer: auth_pb2.CreateKeyResponse = await stubs.auth.CreateKey(
            auth_pb2.CreateKeyRequest(principal=principal, **fields), **stubs.call
        )
        return answer

    one, another = await make("users/ada"), await make("users/ada")
    expired = await make("users/ada", lifetime={"nanos": 1_000_000})
    revoked = await make("users/ada")
    await stubs.auth.RevokeKey(auth_pb2.RevokeKeyRequest(name=revoked.resource.name), **stubs.call)
    denied = await make("users/eve")
    await stubs.auth.DenyPrincipal(auth_pb2.DenyPrincipalRequest(principal="users/eve"), **stubs.call)
    other = {"allow_endpoints": [OTHER_ENDPOINT]}
    elsewhere = await make("workers/elsewhere", roles=[auth_pb2.ROLE_WORKER], permissions=other)
    while time.time() <= expired.resource.expire_time.ToMilliseconds() / 1000:
        pass  # a millisecond
    prefix, identity, _ = one.key.split("_", 2)
    secret = another.key.split("_", 2)[2]
    return {
        "user by key": one.key,
        "swapped key": f"{prefix}_{identity}_{secret}",
        "expired key": expired.key,
        "revoked key": revoked.key,
        "denied": denied.key,
        "worker of another endpoint": elsewhere.key,
    }
