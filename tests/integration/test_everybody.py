"""Every RPC and every HTTP route, under every kind of caller, has the outcome that the table says.

What a server serves is asked of the server itself, and what the facade serves is read from its route table: one that
the table does not know fails the test, and so does an outcome that nobody expected.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from weft.inference.v1 import inference_pb2

from services.facade import routes
from services.rpc.channel import dial
from tests.testing.everybody.callers import auth_settings, make_callers
from tests.testing.everybody.outcomes import ask, call
from tests.testing.everybody.requests import rpc_request, served
from tests.testing.everybody.table import ADMITTED, CALLERS, HTTP, RPCS, STRANGERS
from tests.testing.globus_auth import GlobusAuth
from tests.testing.mesh import SERVICES, Mesh, MeshOptions, hold, let_go

DOCS: Final = Path(__file__).parents[2] / "docs"
SERVERS: Final = ("router", "registry", "auth", "launcher")
AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class World:
    """A mesh with all services, and the bearer token of every kind of caller."""

    mesh: Mesh
    callers: Mapping[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("everybody")
    with GlobusAuth() as globus, pytest.MonkeyPatch.context() as environment:
        for name, value in globus.environ.items():
            environment.setenv(name, value)
        gateway, listed = globus.add_app("weft", secret="s3cret"), globus.add_app("listed", secret="x")
        gateway.sees_groups = True
        (home / "globus.secret").write_text(gateway.secret)
        settings = auth_settings(globus, gateway, listed, str(home / "globus.secret"))
        mesh = hold(home / "home", MeshOptions(services=(*SERVICES, "launcher"), auth=settings))
        try:
            asyncio.run(mesh.start())
            callers = asyncio.run(make_callers(mesh, globus, gateway, listed))
            asyncio.run(until_restricted(mesh, callers["other group"]))
            yield World(mesh, callers)
        finally:
            let_go(mesh)


async def until_restricted(mesh: Mesh, stranger: str) -> None:
    """Waits until the router, too, knows who may use the endpoint."""

    async def models() -> list[str]:
        async with mesh.stubs(stranger) as stubs:
            answer = await stubs.inference.ListModels(inference_pb2.ListModelsRequest(), **stubs.call)
        return [model.id for model in answer.models]

    await mesh.until(models, lambda seen: not seen, "who is not in the group sees no model")


def test_every_kind_of_caller_is_tried(world: World) -> None:
    assert set(world.callers) == set(CALLERS) == {*STRANGERS, *ADMITTED}


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """What is otherwise than the table says."""
    assert found.keys() == expected.keys()
    different = (name for name in expected if found[name] != expected[name])
    return "\n".join(f"{name}: {found[name]}, not {expected[name]}" for name in different)


@pytest.mark.parametrize("server", SERVERS)
async def test_every_rpc(world: World, server: str) -> None:
    async with dial(world.mesh.address(server)) as channel:
        methods = await served(channel)
        unexpected = methods.keys() - RPCS.keys()
        assert not unexpected, f"{server} serves what the table does not know"
        worker = world.callers["worker"]
        found: dict[str, str] = {}
        limit = asyncio.Semaphore(AT_ONCE)

        async def try_one(name: str, caller: str) -> None:
            async with limit:
                request = rpc_request(methods[name], worker)
                found[f"{name} by {caller}"] = await call(channel, methods[name], request, world.callers[caller])

        await asyncio.gather(*(try_one(name, caller) for name in methods for caller in CALLERS))
        expected = {f"{name} by {caller}": RPCS[name].outcome(caller) for name in methods for caller in CALLERS}
        assert differences(found, expected) == ""


async def test_the_table_knows_no_rpc_that_nobody_serves(world: World) -> None:
    everywhere: set[str] = set()
    for server in SERVERS:
        async with dial(world.mesh.address(server)) as channel:
            everywhere |= set(await served(channel))
    assert everywhere == set(RPCS)


def route_table() -> set[str]:
    """Every route of the facade, with what stands in its places: a cluster, a framework, a model."""
    pinned = "/resource_server/local/vllm"
    posted = {*routes.POSTED, "/v1/anything/else"}
    federated = [path for path in posted if path.startswith("/v1/")]
    status = {
        path if path not in routes.PER_CLUSTER else path.replace("_server", "_server/local") for path in routes.STATUS
    }
    models = {"/v1/models", "/v1/models/sim-model", "/resource_server/v1/models", f"{pinned}/v1/models"}
    return {
        *(f"GET {path}" for path in (*routes.OWN, *status, *models)),
        *(f"POST {path}" for path in posted),
        *(f"POST {base}{path}" for base in ("/resource_server", pinned) for path in federated),
    }


async def test_every_http_route(world: World) -> None:
    assert route_table() == set(HTTP)
    found: dict[str, str] = {}
    expected = {f"{route} by {caller}": row.outcome(caller) for route, row in HTTP.items() for caller in CALLERS}
    async with aiohttp.ClientSession(world.mesh.url) as client:
        for route in HTTP:
            method, _, path = route.partition(" ")
            for caller in CALLERS:
                name = f"{route} by {caller}"
                found[name] = await ask(client, method, path, world.callers[caller], expected[name])
    assert differences(found, expected) == ""


def test_the_page_for_auditors_is_current() -> None:
    spec = importlib.util.spec_from_file_location("access_page", DOCS / "access.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "access.md").read_text(encoding="utf-8") == module.page(), "run python docs/access.py"
