"""Several of everything: workers, endpoints, facades, routes; and FIRST's URLs, federated and pinned."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.parts import service_part
from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import ENDPOINT, MeshOptions, hold, let_go
from tests.testing.processes import HeldPort, Part
from tests.testing.simulator import Simulator
from tests.testing.twins import Twins

FAR = "clusters/far/endpoints/sim"
REMOTE = "clusters/cloud/endpoints/remote"
KEY = "sk-remote"
LONG = 30_000
"""Tokens of an answer that outlives its test."""


class Sites:
    """Workers at two clusters that serve the same model, and a server elsewhere that wants a key, behind one mesh."""

    def __init__(self, home: Path) -> None:
        self.mesh = hold(home, MeshOptions(workers=0, endpoints=(ENDPOINT, FAR), router={"wait_for_worker_s": 1}))
        self.near = Simulator("near", home)
        self.far = Simulator("far", home, "--model", "sim-model", "--model", "far-model")
        self.remote = Simulator("remote", home, "--model", "its-own-name", "--api-key", KEY)
        self.sims = (self.near, self.far, self.remote)

    async def start(self) -> None:
        """Starts all."""
        for sim in self.sims:
            sim.launch()
        await self.mesh.start()
        self.mesh.launch_worker(vllm_url=self.near.url)
        self.mesh.launch_worker(vllm_url=self.far.url, endpoint=FAR)
        await self.mesh.until_attached(2)
        await self.mesh.until(self.remote.answers, bool, "the server elsewhere answers")

    def clear_away(self) -> None:
        """Ends all."""
        let_go(self.mesh)
        for sim in self.sims:
            sim.clear_away()

    async def weft(self, *arguments: str) -> None:
        """Runs a command of an administrator."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
        command = (sys.executable, "-m", "services.cli", *arguments)
        process = await asyncio.create_subprocess_exec(*command, env={**environ, **self.mesh.environ})
        assert await process.wait() == 0, arguments

    async def servers_of(self, calls: int = 2, **how: str) -> set[str]:
        """Who answers so many calls that are made at once; all must be answered whole."""
        before = await self.generated()
        made = [Call(self.mesh, stream=True, tokens=20, **how) for _ in range(calls)]
        assert [await call.ending() for call in made] == [WHOLE] * calls
        after = await self.generated()
        return {sim.name for sim, now, was in zip(self.sims, after, before, strict=True) if now > was}

    async def generated(self) -> list[int]:
        """The tokens that each simulator has generated since its start; 0 for one that is dead."""
        return [await sim.generated() if await sim.answers() else 0 for sim in self.sims]

    async def refused(self, **how: str) -> tuple[int, str]:
        """How a call is refused."""
        call = Call(self.mesh, stream=False, **how)
        assert await call.ending() != WHOLE
        return call.status, call.body.decode()


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """One for all tests here, which leave it as they found it."""
    sites = Sites(tmp_path_factory.mktemp("sites"))
    try:
        asyncio.run(sites.start())
        yield sites
    finally:
        sites.clear_away()


async def test_two_workers_share_the_load(twins: Twins) -> None:
    calls = [Call(twins.mesh, stream=True, tokens=LONG) for _ in range(20)]
    assert await twins.mesh.until(twins.computing, lambda now: sum(now) == 20, "20 calls are computed") == [10, 10]
    for call in calls:
        await call.leave()


async def test_a_new_worker_is_used_and_one_that_leaves_is_not(sites: Sites) -> None:
    third = Simulator("third", sites.mesh.home)
    third.launch()
    try:
        worker = await sites.mesh.add_worker(vllm_url=third.url)
        calls = [Call(sites.mesh, stream=False) for _ in range(6)]
        assert [await call.ending() for call in calls] == [WHOLE] * 6
        assert await third.generated() > 0
        assert await worker.terminate() == 0
        sites.mesh.workers.remove(worker)
        assert await sites.servers_of(6) == {"near", "far"}
    finally:
        third.clear_away()


async def test_calls_through_two_facades(sites: Sites, tmp_path: Path) -> None:
    port = HeldPort()
    environ = {**sites.mesh.environ, "WEFT_FACADE__PORT": str(port.port)}
    second = Part(service_part("facade", tmp_path, {**environ, "WEFT_HOME": str(tmp_path)}, grace=5))
    try:
        await second.start()
        url = f"http://127.0.0.1:{port.port}"
        await sites.mesh.until(lambda: Call(sites.mesh, stream=False, url=url).ending(), WHOLE.__eq__, "it answers")
        calls = [Call(sites.mesh, stream=True, tokens=100, url=where) for where in (url, sites.mesh.url) * 5]
        await asyncio.gather(*(call.begun() for call in calls))
        await second.kill()  # which disturbs nobody at the other
        assert [await call.ending() for call in calls[1::2]] == [WHOLE] * 5
    finally:
        second.clear_away()
        port.close()


async def test_a_model_of_one_endpoint_goes_there(sites: Sites) -> None:
    assert await sites.servers_of(model="sim-model") == {"near", "far"}
    assert await sites.servers_of(model="far-model") == {"far"}


async def test_urls_of_first_are_federated_or_pinned(sites: Sites) -> None:
    assert await sites.servers_of(prefix="/resource_server") == {"near", "far"}
    assert await sites.servers_of(prefix="/resource_server/local/vllm") == {"near"}
    assert await sites.servers_of(prefix="/resource_server/far/vllm") == {"far"}
    for prefix, model in (
        ("/resource_server/nowhere/vllm", "sim-model"),
        ("/resource_server/far/sglang", "sim-model"),
        ("/resource_server/local/vllm", "far-model"),
    ):
        status, body = await sites.refused(prefix=prefix, model=model)
        assert status in (404, 503), (prefix, model, status, body)


async def test_a_drained_endpoint_finishes_its_calls_and_takes_no_more(sites: Sites) -> None:
    stream = Call(sites.mesh, stream=True, tokens=300, prefix="/resource_server/far/vllm")
    await stream.begun()
    await sites.weft("endpoints", "drain", FAR, "--notice", "New disks until noon")
    await sites.mesh.until(lambda: sites.servers_of(), lambda used: used == {"near"}, "calls go elsewhere")
    status, body = await sites.refused(model="far-model")
    assert (status, "New disks until noon" in body) == (503, True)
    assert await stream.ending() == WHOLE
    await sites.weft("endpoints", "resume", FAR)
    await sites.mesh.until(lambda: sites.servers_of(), lambda used: used == {"near", "far"}, "it takes calls again")


async def test_a_cluster_under_maintenance_says_why(sites: Sites) -> None:
    await sites.weft("clusters", "maintain", "clusters/far", "--notice", "Back on Monday")
    await sites.mesh.until(lambda: sites.servers_of(), lambda used: used == {"near"}, "calls go elsewhere")
    for how in ({"model": "far-model"}, {"prefix": "/resource_server/far/vllm"}):
        status, body = await sites.refused(**how)
        assert (status, "Back on Monday" in body) == (503, True)
    await sites.weft("clusters", "resume", "clusters/far")
    await sites.mesh.until(lambda: sites.servers_of(), lambda used: used == {"near", "far"}, "it takes calls again")


async def test_an_endpoint_elsewhere_with_a_key_and_a_name_of_its_own(sites: Sites, tmp_path: Path) -> None:
    key_file = tmp_path / "remote.key"
    key_file.write_text(KEY + "\n")
    await sites.weft("clusters", "create", "clusters/cloud")
    create = ("endpoints", "create", REMOTE, "--url", sites.remote.url, "--api-key-file", str(key_file))
    await sites.weft(*create, "--model", "remote-model=its-own-name")
    await sites.mesh.until(sites.mesh.models, lambda models: "remote-model" in models, "its model is listed")
    assert "its-own-name" not in await sites.mesh.models()
    assert await sites.servers_of(model="remote-model") == {"remote"}
    assert (await sites.refused(model="its-own-name"))[0] == 404

    await sites.weft("routes", "create", "any", "--to", f"{REMOTE}=remote-model", "--to", f"{ENDPOINT}=sim-model")
    await sites.mesh.until(sites.mesh.models, lambda models: "any" in models, "the route is listed")
    assert await sites.servers_of(6, model="any") == {"remote", "near"}

    key_file.write_text("another\n")  # it is read anew at each call
    status, body = await sites.refused(model="remote-model")
    assert (status, "refuses the router's key" in body) == (502, True)  # and not a 401, as if the caller's were wrong
    key_file.write_text(KEY)
    await sites.mesh.until(lambda: sites.servers_of(6, model="any"), lambda used: "remote" in used, "it is used again")
    await sites.remote.kill()
    assert await sites.servers_of(6, model="any") == {"near"}
    assert (await sites.refused(model="remote-model"))[0] in (502, 503)
    sites.remote.launch()
    await sites.mesh.until(lambda: sites.servers_of(6, model="any"), lambda used: "remote" in used, "it is used again")
    await sites.weft("routes", "delete", "routes/any")
    await sites.weft("endpoints", "delete", REMOTE)
    await sites.mesh.until(sites.mesh.models, lambda models: "remote-model" not in models, "its model is gone")
