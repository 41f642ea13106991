"""A multi-user endpoint: root's agent, which becomes the local user that a person's identity maps to."""

from __future__ import annotations

import pwd
from collections.abc import Iterable
from pathlib import Path

import pytest
from weft.auth.v1 import auth_pb2
from weft.session.v1 import session_pb2

from tests.globus.chain import COLD, Chain
from tests.globus.conftest import StartChain
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted, Identity
from tests.globus.recipes import SIM_MODEL, Recipes
from tests.globus.run import Run
from tests.globus.site import Site
from tests.testing.calls import WHOLE, Call


@pytest.fixture(scope="session")
def shared(
    run: Run, hosted: Hosted, site: Site, owner: Identity, people: dict[str, Identity], recipes: Recipes
) -> EndpointAgent:
    """A multi-user endpoint, rendered by Weft: Alice and Bob have accounts."""
    agent = EndpointAgent(run, hosted, site, owner, "people")
    accounts = {people[name].username: run.user(name) for name in ("alice", "bob")}
    recipes.render(
        agent,
        recipes.describe_site("local", real=False),
        recipes.describe_model(real=False),
        identity_mapping={"users": accounts},
        email="administrator@example.org",
    )
    agent.start()
    return agent


async def key_of(chain: Chain, person: str) -> str:
    """A new key of a person's, for all models and endpoints."""
    request = auth_pb2.CreateKeyRequest(
        principal=f"users/{person}",
        roles=[auth_pb2.ROLE_USER],
        permissions=auth_pb2.Permissions(allow_models=["*"], allow_endpoints=["*"]),
    )
    async with chain.mesh.stubs() as stubs:
        answer: auth_pb2.CreateKeyResponse = await stubs.auth.CreateKey(request, **stubs.call)
    return answer.key


def accounts_of_workers(endpoint: str) -> set[str]:
    """Whose processes serve an endpoint on this machine."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"worker" in words and endpoint.encode() in words:
                found.add(pwd.getpwuid(process.stat().st_uid).pw_name)
        except (OSError, KeyError):
            continue
    return found


def ended(sessions: Iterable[session_pb2.Session]) -> dict[str, int]:
    """How many calls have ended at each endpoint's worker."""
    return {session.endpoint: session.ended_calls for session in sessions}


async def test_a_worker_under_a_persons_account_serves_that_person_alone(
    start_chain: StartChain, run: Run, shared: EndpointAgent, people: dict[str, Identity]
) -> None:
    secrets = {name: f"{name.upper()}_SECRET" for name in ("alice", "bob")}
    credentials = {
        name: {"client_id": people[name].id, "client_secret_env": secret} for name, secret in secrets.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, secret in secrets.items():
            patch.setenv(secret, people[name].secret)
        chain = await start_chain(launcher={"credentials": credentials})
    keys = {name: await key_of(chain, name) for name in secrets}

    hers = await chain.endpoint("alices", shared, SIM_MODEL, credentials="alice", serves="users/alice")
    assert await Call(chain.mesh, stream=True, key=keys["alice"]).ending(COLD) == WHOLE
    assert accounts_of_workers(hers) == {run.user("alice")}
    refused = Call(chain.mesh, stream=False, key=keys["bob"])
    assert (await refused.ending(COLD), refused.status) == ("model_forbidden", 403), "nobody waits for another's worker"

    his = await chain.endpoint("bobs", shared, SIM_MODEL, credentials="bob", serves="users/bob")
    assert await Call(chain.mesh, stream=True, key=keys["bob"]).ending(COLD) == WHOLE
    assert accounts_of_workers(his) == {run.user("bob")}
    await chain.mesh.until(chain.mesh.sessions, lambda seen: ended(seen) == {hers: 1, his: 1}, "each has had one call")
