"""FIRST's status routes over HTTP: its shapes, what a caller may see, and one question to a queue for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from weft.launcher.v1 import launcher_pb2
from weft.registry.v1 import registry_pb2, resources_pb2

from tests.testing.launcher import FakeLauncher
from tests.testing.mesh import Mesh, StartMesh

COLD = "clusters/sophia/endpoints/cold"
SECRET = "clusters/sophia/endpoints/secret"
WARM = "clusters/sophia/endpoints/warm"


@pytest.fixture
async def launcher() -> AsyncIterator[FakeLauncher]:
    made = FakeLauncher()
    await made.start()
    yield made
    await made.close()


async def sophia(start_mesh: StartMesh, launcher: FakeLauncher) -> Mesh:
    """A cluster with a queue, a worker, an endpoint without one, and one whose model not everybody may call."""
    mesh = await start_mesh(workers=0, endpoints=(WARM,), router={"launcher_address": launcher.address})
    async with mesh.stubs() as stubs:
        cluster = resources_pb2.Cluster(name="clusters/sophia", operations=["chat/completions", "embeddings"])
        cluster.queue_status.endpoint_uuid = "q"
        cluster.queue_status.function_uuid = "f"
        await stubs.registry.UpdateCluster(registry_pb2.UpdateClusterRequest(cluster=cluster), **stubs.call)
        for name, model in ((COLD, "llama"), (SECRET, "secret")):
            endpoint = resources_pb2.Endpoint(
                name=name, framework="vllm", models=[resources_pb2.ModelBinding(model=model)]
            )
            endpoint.globus.launch.start_worker.endpoint_uuid = "e"
            await stubs.registry.CreateEndpoint(registry_pb2.CreateEndpointRequest(endpoint=endpoint), **stubs.call)
    await mesh.add_worker(endpoint=WARM)
    await mesh.until(lambda: get(mesh, "/sophia/models"), lambda got: len(got[1]) == 3, "the router has the endpoints")
    return mesh


async def get(mesh: Mesh, path: str, key: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key or mesh.key}"} if key != "" else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{mesh.url}/resource_server{path}", allow_redirects=False) as response,
    ):
        return response.status, await response.json()


def job(number: int, state: str, *models: str, **more: Any) -> launcher_pb2.QueuedJob:
    return launcher_pb2.QueuedJob(
        id=f"{number}.pbs", state=state, scheduler_state=state[0].upper(), models=models, framework="vllm", **more
    )


async def test_the_shapes_are_firsts_and_show_what_the_caller_may_use(
    start_mesh: StartMesh, launcher: FakeLauncher
) -> None:
    mesh = await sophia(start_mesh, launcher)
    user = await mesh.create_key(deny=["secret"])
    operations = ["/v1/chat/completions", "/v1/embeddings"]
    listed = {
        "clusters": {
            "sophia": {
                "base_url": "/resource_server/sophia",
                "frameworks": {"vllm": {"models": ["llama", "sim-model"], "endpoints": operations}},
            }
        }
    }
    assert await get(mesh, "/list-endpoints", user) == (200, listed)
    assert await get(mesh, "/list-endpoints/", user) == (200, listed), "Django's users write a slash"
    everything = (await get(mesh, "/list-endpoints"))[1]
    assert everything["clusters"]["sophia"]["frameworks"]["vllm"]["models"] == ["llama", "secret", "sim-model"]
    status, models = await get(mesh, "/sophia/models", user)
    assert (status, [(one["model"], one["status"]) for one in models]) == (
        200,
        [("llama", "stopped"), ("sim-model", "running")],
    )
    assert await get(mesh, "/whoami", user) == (
        200,
        {
            "id": "users/tester",
            "name": "tester",
            "username": "tester",
            "user_group_uuids": [],
            "idp_id": "",
            "idp_name": "",
            "auth_service": "weft",
        },
    )
    assert await get(mesh, "/status", "") == (200, {"sophia": True})
    assert await get(mesh, "/health", "") == (200, {"status": "ok"})
    assert (await get(mesh, "/list-endpoints", ""))[0] == 401
    assert (await get(mesh, "/list-endpoints", "wrong"))[0] == 401
    assert (await get(mesh, "/unknown/jobs", user))[0] == 404
    assert launcher.asked == []


async def test_one_question_to_the_queue_serves_all_users_each_sees_its_own_models(
    start_mesh: StartMesh, launcher: FakeLauncher
) -> None:
    mesh = await sophia(start_mesh, launcher)
    launcher.queue = launcher_pb2.GetQueueResponse(
        jobs=[
            job(1, "running", "sim-model", endpoint=WARM, hosts="node1/0*8", nodes=1, walltime="00:10:00"),
            job(2, "queued", "llama", "secret", endpoint=COLD, comment="Not Running", expected_start="Sat 14:05"),
            job(3, "queued", "secret", endpoint=SECRET),
            job(4, "running", "llama", batch=True),
            job(5, "held", "llama", endpoint=COLD),
            job(6, "running", "llama", endpoint=COLD),
        ],
        free_nodes=3,
    )
    user = await mesh.create_key(deny=["secret"])
    answers = await asyncio.gather(*(get(mesh, "/sophia/jobs", key) for key in (user, None, user, None)))
    assert launcher.asked == ["clusters/sophia"]
    status, jobs = answers[0]
    assert status == 200
    assert jobs["running"][0] == {
        "Models": "sim-model",
        "Framework": "vllm",
        "Cluster": "sophia",
        "Model Status": "running",
        "Job ID": "1.pbs",
        "Job State": "R",
        "Host Name": "node1/0*8",
        "Job Comments": "N/A",
        "Nodes Reserved": "1",
        "Walltime": "00:10:00",
    }
    assert jobs["queued"] == [
        {
            "Models": "llama",
            "Framework": "vllm",
            "Cluster": "sophia",
            "Model Status": "queued",
            "Job ID": "2.pbs",
            "Job State": "Q",
            "Host Name": "N/A",
            "Job Comments": "Not Running",
            "Nodes Reserved": "N/A",
            "Estimated Start Time": "Sat 14:05",
        }
    ]
    assert [(one["Job ID"], one["Model Status"]) for one in jobs["running"][1:]] == [("6.pbs", "starting")]
    assert [(one["Job ID"], one["Model Status"]) for one in jobs["others"]] == [("5.pbs", "other")]
    assert [one["Job ID"] for one in jobs["private_batch_running"]] == ["4.pbs"]
    assert (jobs["stopped"], jobs["private_batch_queued"], jobs["cluster_status"]) == ([], [], {"free_nodes": 3})
    assert [one["Models"] for one in answers[1][1]["queued"]] == ["llama,secret", "secret"]


async def test_without_the_queue_the_workers_and_the_starts_are_told(
    start_mesh: StartMesh, launcher: FakeLauncher
) -> None:
    mesh = await sophia(start_mesh, launcher)

    async def watched() -> int:
        return launcher.watched

    await mesh.until(watched, lambda number: number == 1, "the router watches the launcher")
    launcher.tell(COLD, "queued", "its job is third in the queue")
    await mesh.until(
        lambda: get(mesh, "/sophia/models"), lambda got: got[1][0]["status"] == "queued", "the start is known"
    )
    status, jobs = await get(mesh, "/sophia/jobs")
    assert status == 200
    assert [(one["Models"], one["Model Status"], one["Job ID"]) for one in jobs["running"]] == [
        ("sim-model", "running", "N/A")
    ]
    assert [(one["Models"], one["Job Comments"]) for one in jobs["queued"]] == [
        ("llama", "its job is third in the queue")
    ]
    assert jobs["cluster_status"]["status"] == "unknown"
    assert "The launcher, which starts workers, cannot be reached" in jobs["cluster_status"]["message"]
    async with mesh.stubs() as stubs:
        cluster = resources_pb2.Cluster(
            name="clusters/sophia", availability=resources_pb2.AVAILABILITY_MAINTENANCE, notice="back on Monday"
        )
        await stubs.registry.UpdateCluster(registry_pb2.UpdateClusterRequest(cluster=cluster), **stubs.call)
    closed = {"sophia": False}
    await mesh.until(lambda: get(mesh, "/status", ""), lambda got: got[1] == closed, "the cluster is down")
    jobs = (await get(mesh, "/sophia/jobs"))[1]
    assert sorted(one["Models"] for one in jobs["stopped"]) == ["llama", "secret", "sim-model"]
    assert jobs["running"] == []
