"""Calls as tasks through a real mesh: the launcher's bridge in this process, routers and facade as they are, and nodes
that run the real inference function against a simulated vLLM. Globus Compute alone is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import BadRequestError
from weft.auth.v1 import auth_pb2_grpc
from weft.registry.v1 import registry_pb2, resources_pb2
from weft.session.v1 import frame_pb2

from compute_functions.inference import inference
from services.globus.control import EndpointStatus
from services.globus.errors import GlobusError, Kind
from services.launcher.bridge import Bridge
from services.launcher.bridge_calls import TaskSlots
from services.launcher.bridge_status import Statuses
from services.launcher.bridge_worker import BridgeParts
from services.launcher.enrolment import Enrolment
from services.launcher.functions import Functions
from services.launcher.task_workers import TaskWorker
from services.rpc.catalogue import CatalogueWatcher
from services.rpc.channel import dial
from services.sim.config import SimConfig
from tests.testing.calls import Call
from tests.testing.mesh import Mesh
from tests.testing.sim import running_sim

NAME = "clusters/far/endpoints/gpu"
UUID, FUNCTION = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@dataclass
class Nodes:
    """Globus Compute and its nodes: a task is the function, called here. `answer` stands in for it; `held` keeps tasks
    from their end.
    """

    online: bool = True
    answer: Callable[[], Any] | None = None
    held: asyncio.Event = field(default_factory=asyncio.Event)
    seen: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = field(default_factory=list)

    async def run(
        self,
        credentials: str,
        endpoint_uuid: str,
        function_uuid: str,
        payload: Mapping[str, Any],
        user_endpoint_config: Mapping[str, Any] | None = None,
        submitted: Callable[[str], None] = lambda task_id: None,
        happened: Callable[[str], None] = lambda what: None,
    ) -> Any:
        assert (endpoint_uuid, function_uuid) == (UUID, FUNCTION)
        self.seen.append((payload, user_endpoint_config or {}))
        await self.held.wait()
        if self.answer is not None:
            return self.answer()
        # As JSON, which is how it travels.
        return await asyncio.to_thread(lambda: json.loads(json.dumps(inference(json.loads(json.dumps(payload))))))

    async def allowed_functions(self, credentials: str, endpoint_uuid: str) -> frozenset[str] | None:
        return frozenset({FUNCTION})

    async def endpoint_status(self, credentials: str, endpoint_uuid: str) -> EndpointStatus:
        return EndpointStatus(self.online)

    async def task_state(self, credentials: str, task_id: str) -> Any:
        raise GlobusError(Kind.OTHER, "Nobody asks for it here.")

    async def close(self) -> None:
        """Nothing is to be ended."""


class World:
    """A mesh without workers, an endpoint of Globus Compute, and the bridge."""

    def __init__(self, mesh: Mesh, bridge: Bridge, nodes: Nodes, registry: CatalogueWatcher) -> None:
        self.mesh, self.bridge, self.nodes, self.registry = mesh, bridge, nodes, registry

    async def create(self, port: int = 0, *, launched: bool = False) -> None:
        """The endpoint, and its function, in the catalogue."""
        backend = resources_pb2.GlobusBackend(api_port=port)
        if launched:
            backend.launch.start_worker.endpoint_uuid = UUID
            backend.launch.user_endpoint_config.update({"queue": "debug"})
            backend.call_mode = resources_pb2.CALL_MODE_TASK
        else:
            backend.inference.endpoint_uuid = UUID
        endpoint = resources_pb2.Endpoint(
            name=NAME, framework="vllm", models=[resources_pb2.ModelBinding(model="sim-model")], globus=backend
        )
        function = resources_pb2.Function(name="functions/inference")
        function.versions.add(uuid=FUNCTION, sha256="0" * 64).register_time.GetCurrentTime()
        async with self.mesh.stubs() as stubs:
            for create, request in (
                (stubs.registry.CreateFunction, registry_pb2.CreateFunctionRequest(function=function)),
                (
                    stubs.registry.CreateCluster,
                    registry_pb2.CreateClusterRequest(cluster=resources_pb2.Cluster(name="clusters/far")),
                ),
                (stubs.registry.CreateEndpoint, registry_pb2.CreateEndpointRequest(endpoint=endpoint)),
            ):
                await create(request, **stubs.call)
        await self.mesh.until(self._catalogue, lambda names: NAME in names, "the launcher's catalogue has the endpoint")

    async def _catalogue(self) -> list[str]:
        catalogue = self.registry.current
        return list(catalogue.endpoints) if catalogue is not None else []

    async def attached(self, state: int = frame_pb2.WORKER_STATE_READY) -> Any:
        """The one session, once it is in that state."""
        sessions = await self.mesh.until(
            self.mesh.sessions, lambda seen: [one.report.state for one in seen] == [state], f"one session in {state}"
        )
        return sessions[0]


@pytest.fixture
async def world(start_mesh, tmp_path: Path) -> AsyncIterator[World]:
    mesh = await start_mesh(workers=0, endpoints=())
    nodes = Nodes()
    nodes.held.set()

    def key() -> str:
        return (mesh.home / "service.key").read_text().strip()

    made: list[Bridge] = []
    registry = CatalogueWatcher(mesh.address("registry"), key, changed=lambda catalogue: made[0].see(catalogue))
    async with dial(mesh.address("auth")) as channel:
        parts = BridgeParts(
            tasks=nodes,
            functions=Functions(nodes),
            statuses=Statuses(nodes),
            enrolment=Enrolment(auth_pb2_grpc.AuthServiceStub(channel), key),
            catalogue=lambda: registry.current,  # type: ignore[arg-type,return-value]
            routers=(mesh.address("router"),),
            lifetime=3600,
            grace=2,
            slots=TaskSlots(tasks=2, waiting=2),
        )
        made.append(Bridge(parts))
        registry.start()
        yield World(mesh, made[0], nodes, registry)
        nodes.held.set()
        await made[0].close()
        await registry.close()


@contextlib.asynccontextmanager
async def sim_port() -> AsyncIterator[int]:
    async with running_sim(SimConfig(port=0)) as (address, _):
        yield int(address.rsplit(":", 1)[1])


async def test_an_endpoint_without_starts_is_served_as_soon_as_the_catalogue_has_it(world: World) -> None:
    async with sim_port() as port:
        await world.create(port)
        session = await world.attached()
        assert session.start.startswith("task-")
        assert session.report.max_calls == 2
        call = Call(world.mesh, stream=True, tokens=5)
        assert await call.ending() == "whole"
        assert await Call(world.mesh, stream=False, tokens=3).ending() == "whole"
        payload, config = world.nodes.seen[0]
        assert (payload["endpoint"], payload["slot"], config) == (NAME, 0, {})
        assert "authorization" not in dict(payload["headers"])
        with pytest.raises(BadRequestError) as error:
            await world.mesh.openai().chat.completions.create(
                model="sim-model", messages=[{"role": "user", "content": "x"}], max_tokens=-1
            )
        assert "max_tokens" in str(error.value), "vLLM's own words"


async def test_a_started_worker_is_served_under_its_start_and_by_its_slot(world: World) -> None:
    async with sim_port() as port:
        await world.create(port, launched=True)
        started_with = {"queue": "debug", "weft_endpoint": NAME, "weft_slot": 3}
        world.bridge.follow([TaskWorker("abc123", NAME, 3, config=json.dumps(started_with))])
        session = await world.attached()
        assert (session.start, session.instance) == ("abc123", "tasks-abc123")
        assert await Call(world.mesh, stream=True).ending() == "whole"
        payload, config = world.nodes.seen[0]
        assert payload["slot"] == 3
        assert config == started_with
        # It ends: the open call finishes first, and then nobody is attached.
        world.nodes.held.clear()
        call = Call(world.mesh, stream=False)
        await world.mesh.until(_value(lambda: len(world.nodes.seen)), lambda seen: seen == 2, "the second task")
        world.bridge.follow([])
        world.nodes.held.set()
        assert await call.ending() == "whole"
        await world.mesh.until(world.mesh.sessions, lambda seen: not seen, "nobody is attached")


async def test_after_another_launcher_has_taken_over_the_same_start_is_admitted_again(world: World) -> None:
    await world.create(1, launched=True)
    for _ in range(2):
        world.bridge.follow([TaskWorker("abc123", NAME, 0)])
        assert (await world.attached()).start == "abc123"
        world.bridge.follow([])
        await world.mesh.until(world.mesh.sessions, lambda seen: not seen, "nobody is attached")


async def test_it_attaches_again_after_the_router_and_with_auth_away(world: World) -> None:
    async with sim_port() as port:
        await world.create(port)
        await world.attached()
        await world.mesh.router.restart()
        await world.attached()
        assert await Call(world.mesh, stream=False).ending() == "whole"
        await world.mesh.auth.kill()
        await world.mesh.router.restart()
        await world.mesh.auth.start()
        await world.attached()
        assert await Call(world.mesh, stream=False).ending() == "whole"


async def test_an_endpoint_that_leaves_the_catalogue_is_served_no_more(world: World) -> None:
    await world.create(1)
    await world.attached()
    async with world.mesh.stubs() as stubs:
        await stubs.registry.DeleteEndpoint(registry_pb2.DeleteEndpointRequest(name=NAME), **stubs.call)
    await world.mesh.until(world.mesh.sessions, lambda seen: not seen, "nobody is attached")
    assert world.bridge.workers == ()


async def test_an_endpoint_that_is_offline_takes_no_calls_and_says_so(world: World) -> None:
    world.nodes.online = False
    await world.create(1)
    session = await world.attached(frame_pb2.WORKER_STATE_UNHEALTHY)
    assert session.report.detail == "no task can be sent: its Globus Compute endpoint is offline"


async def test_a_node_without_vllm_is_told_as_an_error_of_the_catalogue(world: World) -> None:
    await world.create(1)  # nobody listens on port 1
    await world.attached()
    world.nodes.answer = lambda: {"error": {"kind": "vllm_unreachable", "message": "No vLLM runs on node7."}}
    status, answer = await _post(world, timeout=60)
    assert (status, answer["error"]["code"]) == (502, "upstream_unreachable")
    assert "node7" in answer["error"]["message"]


async def test_a_great_answer_arrives_whole(world: World) -> None:
    await world.create(1)
    await world.attached()
    text = "0123456789abcdef" * (9 * 2**16)  # 9 MiB
    world.nodes.answer = lambda: {"status": 200, "headers": [["content-type", "application/json"]], "body": f'"{text}"'}
    status, answer = await _post(world, timeout=60)
    assert (status, answer == text) == (200, True)


async def test_closing_is_bounded_though_a_task_never_ends(world: World) -> None:
    await world.create(1)
    await world.attached()
    world.nodes.held.clear()
    call = Call(world.mesh, stream=False)
    await world.mesh.until(_value(lambda: len(world.nodes.seen)), lambda seen: seen == 1, "a task")
    async with asyncio.timeout(15):
        await world.bridge.close()
    await call.leave()


def _value(look: Callable[[], Any]) -> Any:
    async def value() -> Any:
        return look()

    return value


async def _post(world: World, *, timeout: float) -> tuple[int, Any]:
    body = {"model": "sim-model", "messages": [{"role": "user", "content": "x"}]}
    headers = {"Authorization": f"Bearer {world.mesh.key}"}
    url = f"{world.mesh.url}/v1/chat/completions"
    limit = aiohttp.ClientTimeout(total=timeout)
    async with aiohttp.ClientSession(timeout=limit) as session, session.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()
