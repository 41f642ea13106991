"""Policies in a mesh of processes: other groups, other domains and stale sessions over HTTP and gRPC; what callers see;
and calls that wait, and start workers, only where they may.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import grpc
import pytest
from weft.auth.v1 import auth_pb2
from weft.inference.v1 import inference_pb2
from weft.registry.v1 import registry_pb2, resources_pb2

from services.core.errors import Reason
from services.rpc.errors import from_rpc_error
from tests.integration.test_cli_mesh import weft
from tests.testing.calls import Call
from tests.testing.launcher import FakeLauncher
from tests.testing.mesh import ENDPOINT, Mesh, StartMesh
from tests.testing.oidc_issuer import OidcIssuer

COLD = "clusters/local/endpoints/cold"
MODEL = "sim-model"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


@pytest.fixture
def issuer() -> Iterator[OidcIssuer]:
    with OidcIssuer() as issuer:
        yield issuer


@pytest.fixture
async def launcher() -> AsyncIterator[FakeLauncher]:
    made = FakeLauncher()
    await made.start()
    yield made
    await made.close()


def auth(issuer: OidcIssuer) -> dict[str, Any]:
    """Admits everybody whom the issuer knows: what follows is the affair of clusters and endpoints."""
    known = {"name": "corp", "issuer": issuer.url, "audiences": ["weft"], "domains": ["anl.gov"]}
    return {"issuers": [known], "policy": {"allowed_principals": ["*"]}}


def token(issuer: OidcIssuer, sub: str = "alice@anl.gov", group: str = "staff", age: float = 0) -> str:
    return issuer.token(sub=sub, groups=[group], auth_time=int(time.time() - age))


async def over_http(mesh: Mesh, key: str, path: str = "/v1/chat/completions", model: str = MODEL) -> tuple[int, Any]:
    """The status, and the error's code or the body."""
    post = path.endswith("completions")
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
        session.request(
            "POST" if post else "GET", f"{mesh.url}{path}", json={**CHAT, "model": model} if post else None
        ) as response,
    ):
        said = await response.json()
        return response.status, said["error"]["code"] if response.status >= 400 else said


async def over_grpc(mesh: Mesh, key: str) -> Reason | None:
    """Why a call is refused; None if it is answered."""
    request = inference_pb2.InferRequest(operation="chat/completions", body_json=json.dumps(CHAT))
    async with mesh.stubs(key) as stubs:
        try:
            async for _ in stubs.inference.Infer(request, **stubs.call):
                pass
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error, unavailable=Reason.ROUTER_UNAVAILABLE).reason
    return None


async def seen(mesh: Mesh, key: str) -> tuple[list[str], list[str], list[str]]:
    """The models that the lists show: OpenAI's, gRPC's and FIRST's."""
    _, openai = await over_http(mesh, key, "/v1/models")
    _, first = await over_http(mesh, key, "/resource_server/list-endpoints")
    async with mesh.stubs(key) as stubs:
        rpc = await stubs.inference.ListModels(inference_pb2.ListModelsRequest(), **stubs.call)
    models = [
        model
        for cluster in first["clusters"].values()
        for framework in cluster["frameworks"].values()
        for model in framework["models"]
    ]
    return [card["id"] for card in openai["data"]], [model.id for model in rpc.models], models


async def set_access(mesh: Mesh, **access: Any) -> None:
    """Gives the cluster a policy, which the router hears of a little later."""
    cluster = resources_pb2.Cluster(name="clusters/local", access=resources_pb2.AccessPolicy(**access))
    request = registry_pb2.UpdateClusterRequest(cluster=cluster)
    request.update_mask.paths.append("access")
    async with mesh.stubs() as stubs:
        await stubs.registry.UpdateCluster(request, **stubs.call)


async def test_who_may_call_over_http_and_grpc_and_what_they_see(issuer: OidcIssuer, start_mesh: StartMesh) -> None:
    mesh = await start_mesh(auth=auth(issuer))
    domain, group = ("--allow-domain", "anl.gov"), ("--allow-group", "staff@corp", "--max-session-age", "1h")
    told = json.loads(await weft(mesh, "endpoints", "update", ENDPOINT, *group))
    assert told["access"] == {"allowed_globus_groups": ["staff@corp"], "max_session_age": "3600s"}
    await weft(mesh, "clusters", "update", "clusters/local", *domain)
    alice = token(issuer)

    async def outsider() -> Any:
        # One whom the later of the two policies alone refuses, the cluster's.
        return (await over_http(mesh, token(issuer, sub="eve")))[0]

    await mesh.until(outsider, lambda status: status == 403, "the router has the policies")

    assert (await over_http(mesh, alice))[0] == 200
    assert await over_grpc(mesh, alice) is None
    assert await seen(mesh, alice) == ([MODEL], [MODEL], [MODEL])
    refused = {
        "another group": (token(issuer, group="guests"), Reason.MODEL_FORBIDDEN),
        "another domain": (token(issuer, sub="eve"), Reason.MODEL_FORBIDDEN),
        "a stale session": (token(issuer, age=7200), Reason.SESSION_INSUFFICIENT),
        "an administrator's key": (mesh.key, Reason.MODEL_FORBIDDEN),
    }
    for who, (key, reason) in refused.items():
        assert await over_http(mesh, key) == (403, reason.name.lower()), who
        assert await over_http(mesh, key, "/resource_server/local/vllm/v1/chat/completions") == (
            403,
            reason.name.lower(),
        ), who
        assert await over_grpc(mesh, key) is reason, who
        assert await seen(mesh, key) == ([], [], []), who

    explained = await weft(
        mesh, "auth", "explain", "--as", "users/alice@anl.gov", "--model", MODEL, "--logged-in", "5m"
    )
    assert f"✓ {ENDPOINT}: all conditions hold" in explained.splitlines()
    assert explained.splitlines()[-1].startswith("allowed, until ")
    supposed = await weft(
        mesh,
        *("auth", "explain", "--as", "users/alice@anl.gov", "--model", MODEL, "--group", "guests@corp", "--json"),
        exit_code=1,
    )
    assert json.loads(supposed)["reason"] == "MODEL_FORBIDDEN"


async def test_the_order_of_refusals_over_http(start_mesh: StartMesh) -> None:
    """FIRST's: maintenance, framework, operation, model, caller; but first of all, whether the caller is known."""
    mesh = await start_mesh()
    await set_access(mesh, allowed_globus_groups=["staff"])
    pinned = "/resource_server/local/tgi/v1/chat/completions"

    async def code(path: str = pinned, model: str = "no", key: str = mesh.key) -> Any:
        return (await over_http(mesh, key, path, model))[1]

    await weft(mesh, "clusters", "maintain", "clusters/local")
    cluster = resources_pb2.Cluster(name="clusters/local", frameworks=["vllm"], operations=["embeddings"])
    request = registry_pb2.UpdateClusterRequest(cluster=cluster)
    request.update_mask.paths.extend(["frameworks", "operations"])
    async with mesh.stubs() as stubs:
        await stubs.registry.UpdateCluster(request, **stubs.call)
    await mesh.until(code, lambda said: said == "cluster_maintenance", "the cluster is under maintenance")
    assert await code(key="weft_nobody") == "invalid_api_key"

    await weft(mesh, "clusters", "resume", "clusters/local")
    await mesh.until(code, lambda said: said == "framework_unsupported", "it is in service")
    vllm = pinned.replace("tgi", "vllm")
    assert await code(vllm) == "operation_unsupported"
    request.cluster.operations[:] = ["chat/completions"]
    async with mesh.stubs() as stubs:
        await stubs.registry.UpdateCluster(request, **stubs.call)
    await mesh.until(lambda: code(vllm), lambda said: said == 404, "it offers chats; as vLLM tells an unknown model")
    assert await code(vllm, MODEL) == "model_forbidden"
    assert await code("/v1/chat/completions", MODEL) == "model_forbidden"


async def test_nobody_waits_for_or_starts_what_they_may_not_use(
    issuer: OidcIssuer, launcher: FakeLauncher, start_mesh: StartMesh
) -> None:
    mesh = await start_mesh(
        workers=0,
        endpoints=(),
        auth=auth(issuer),
        router={"launcher_address": launcher.address, "settle_s": 0.0},
        registry={"seed": {"clusters": ["clusters/local"]}},
    )
    endpoint = resources_pb2.Endpoint(name=COLD, models=[resources_pb2.ModelBinding(model=MODEL)])
    endpoint.globus.launch.start_worker.endpoint_uuid = "e"
    endpoint.access.allowed_globus_groups.append("staff@corp")
    async with mesh.stubs() as stubs:
        await stubs.registry.CreateEndpoint(registry_pb2.CreateEndpointRequest(endpoint=endpoint), **stubs.call)
    guest, member = token(issuer, group="guests"), token(issuer)
    await mesh.until(
        lambda: over_http(mesh, guest), lambda said: said == (403, "model_forbidden"), "the router has the endpoint"
    )
    assert launcher.wants == []
    jobs = await over_http(mesh, guest, "/resource_server/local/jobs")
    assert (jobs[1]["cluster_status"], launcher.asked) == ({}, []), "nor is the cluster asked for them"
    said = await weft(mesh, "endpoints", "update", COLD, "--url", "http://gpu7:8000", exit_code=2)
    assert "--url would drop how" in " ".join(said.split())

    waits = Call(mesh, stream=False, key=member)
    await launcher.until_wanted(COLD, 1)
    # The policy changes while it waits: it is refused, and no worker is wanted for it any more.
    await set_access(mesh, allowed_domains=["other.org"])
    assert await waits.ending() == "model_forbidden"
    assert (waits.status, json.loads(waits.body)["error"]["code"]) == (403, "model_forbidden")
    await launcher.until_wanted(COLD, 0)


async def test_a_key_counts_as_being_in_its_groups(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    await set_access(mesh, allowed_globus_groups=["staff"])
    request = auth_pb2.CreateKeyRequest(
        principal="services/portal",
        roles=[auth_pb2.ROLE_USER],
        permissions=auth_pb2.Permissions(allow_models=["*"]),
        groups=["staff"],
    )
    async with mesh.stubs() as stubs:
        key = (await stubs.auth.CreateKey(request, **stubs.call)).key
    await mesh.until(lambda: over_http(mesh, mesh.key), lambda said: said[0] == 403, "the router has the policy")
    assert (await over_http(mesh, key))[0] == 200
