"""The metrics of a mesh that runs: few series whatever callers send, and none of workers that have left."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from services.core.inference import Request
from services.facade.router_link import RouterLink
from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import Mesh, StartMesh
from tests.testing.processes import Part
from tests.testing.streams import Answer

MANY = 10_000
AT_ONCE = 100


async def series(part: Part) -> set[str]:
    """The names and labels of all that a part shows."""
    assert part.ready is not None
    async with aiohttp.ClientSession() as session, session.get(f"http://{part.ready.metrics}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


@contextlib.asynccontextmanager
async def linked(mesh: Mesh) -> AsyncIterator[RouterLink]:
    """The router, as a facade has it."""
    link = RouterLink(mesh.address("router"), patience=5.0)
    keeping = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await link.close()


async def with_load(mesh: Mesh) -> int:
    """How many workers' load the router shows."""
    return sum(name.startswith("weft_vllm_requests_running{") for name in await series(mesh.router))


async def test_ten_thousand_names_make_no_series(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(router={"settle_s": 0.0})
    await mesh.until(lambda: with_load(mesh), lambda now: now == 1, "the worker has reported its load")
    headers = (("authorization", f"Bearer {mesh.key}"),)

    async def ask(link: RouterLink, number: int) -> None:
        """Every tenth invents an operation, too."""
        operation = "/v1/chat/completions" if number % 10 else f"/v1/invented{number}"
        answer = Answer()
        link.open(Request(operation, headers, b'{"model":"invented-%d"}' % number), answer, 65536)
        answer.opened = True
        await answer.over.wait()
        assert answer.error is not None

    async with linked(mesh) as link, asyncio.timeout(120):
        await asyncio.gather(*(ask(link, number) for number in range(20)))
        before = await series(mesh.router)
        for first in range(20, MANY + 20, AT_ONCE):
            await asyncio.gather(*(ask(link, number) for number in range(first, first + AT_ONCE)))
        after = await series(mesh.router)
    assert await mesh.router.metric("weft_router_calls_total", route="other") == MANY + 20
    assert after == before


async def test_paths_that_clients_invent_make_no_series(mesh: Mesh) -> None:
    async with aiohttp.ClientSession(mesh.url) as session:

        async def ask(number: int) -> None:
            async with session.get(f"/invented/{number}") as answer:
                assert answer.status == 404

        await ask(0)
        before = await series(mesh.facade)
        await asyncio.gather(*(ask(number) for number in range(1, 200)))
    assert await series(mesh.facade) == before


async def test_a_worker_that_has_left_leaves_the_page(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=2)

    async def workers() -> int:
        return await with_load(mesh)

    await mesh.until(workers, lambda now: now == 2, "both workers have reported their load")
    await mesh.workers[0].kill()
    await mesh.until(workers, lambda now: now == 1, "the one that was killed is gone")
    assert await mesh.router.metric("weft_router_ready_servers", route="sim-model") == 1
    await mesh.workers[1].kill()
    await mesh.until(workers, lambda now: now == 0, "nobody is left")
    assert await mesh.router.metric("weft_router_ready_servers", route="sim-model") == 0
    assert [name for name in await series(mesh.router) if name.startswith("weft_router_ready_servers")] != []


async def test_the_public_port_shows_no_metrics(mesh: Mesh) -> None:
    async with aiohttp.ClientSession(mesh.url) as session, session.get("/metrics") as answer:
        assert answer.status == 404


@pytest.mark.parametrize("service", ["auth", "registry", "router", "facade"])
async def test_every_service_tells_of_itself(mesh: Mesh, service: str) -> None:
    part = {"auth": mesh.auth, "registry": mesh.registry, "router": mesh.router, "facade": mesh.facade}[service]
    assert await Call(mesh, stream=True).ending() == WHOLE
    assert await part.metric("weft_build_info", service=service) == 1
    assert await part.metric("process_cpu_seconds_total") > 0
    await mesh.until(lambda: part.metric("weft_event_loop_lag_seconds_count"), bool, "its loop is watched")
    if service in ("auth", "registry"):
        assert await part.metric("weft_store_duration_seconds_count", service=service) > 0
    if service == "auth":
        assert await part.metric("weft_rpc_server_calls_total", service=service, code="OK") > 0
