"""weft.client against a real mesh."""

import asyncio
from pathlib import Path

import pytest
from weft.client import AsyncClient, InvalidRequest, NotAllowed, RateLimited, Retry, Tls, Unavailable

from tests.testing.certificates import Authority
from tests.testing.mesh import Mesh, StartMesh
from tests.testing.processes import SOON, HeldPort
from tests.testing.twins import Twins

MODEL = "sim-model"


async def test_a_key_by_tls(start_mesh: StartMesh, tmp_path: Path) -> None:
    """The listener that workers use from outside takes callers too, and asks for no certificate."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("127.0.0.1")
    held = HeldPort()
    router = {
        "tls_address": f"127.0.0.1:{held.port}",
        "tls_certificate_file": str(certificate),
        "tls_key_file": str(key),
    }
    mesh = await start_mesh(router=router)
    async with AsyncClient(router["tls_address"], credential=mesh.key, tls=Tls(authority.file)) as client:
        assert (await client.chat(MODEL, "Hello", max_tokens=4)).usage.completion_tokens == 4
    async with AsyncClient(router["tls_address"], credential="nonsense", tls=Tls(authority.file)) as client:
        with pytest.raises(NotAllowed):
            await client.chat(MODEL, "Hello")
    held.close()


async def test_calls_outlast_the_routers_restart(start_mesh: StartMesh) -> None:
    # A call that comes before the worker has come back waits for it.
    mesh = await start_mesh(router={"settle_s": SOON, "wait_for_worker_s": SOON})
    # Its timeout bounds how often it is tried: the router may be slow to start.
    retry = Retry(attempts=1000, longest_wait=0.5)
    async with AsyncClient(mesh.address("router"), credential=mesh.key, retry=retry, timeout=60) as client:
        await client.chat(MODEL, "Hello", max_tokens=4)
        await mesh.router.terminate()
        asked = asyncio.create_task(client.chat(MODEL, "Hello", max_tokens=4))
        await mesh.router.start()
        assert (await asked).usage.completion_tokens == 4


@pytest.mark.parametrize("streamed", [True, False])
async def test_leaving_frees_the_model_server(twins: Twins, streamed: bool) -> None:
    async with AsyncClient(twins.mesh.address("router"), credential=twins.mesh.key) as client:
        if streamed:
            async with client.stream_chat(MODEL, "Hello", max_tokens=30_000) as stream:
                assert await anext(stream.text())
        else:
            asked = asyncio.create_task(client.chat(MODEL, "Hello", max_tokens=30_000))
            await twins.mesh.until(twins.computing, lambda now: sum(now) == 1, "the call is computed")
            asked.cancel()
        await twins.until_idle()


async def test_messages_of_many_mebibytes(start_mesh: StartMesh) -> None:
    """More than gRPC's own 4 MiB each way, through router, session and worker; and more than is taken."""
    mesh = await start_mesh()
    async with AsyncClient(mesh.address("router"), credential=mesh.key) as client:
        texts = ["a" * 512] * 20 * 1024
        answer = await client.embed(MODEL, texts)
        assert len(answer.embeddings) == len(texts)
        assert answer.ByteSize() > 4 * 2**20
        with pytest.raises(InvalidRequest) as failed:
            await client.embed(MODEL, ["a" * 33 * 2**20])
        assert failed.value.reason == "BODY_TOO_LARGE"


async def test_limits_are_told(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(auth={"quotas": [{"subject": "users/*", "requests_per_second": 1}]})
    async with AsyncClient(mesh.address("router"), credential=await mesh.create_key(), retry=None) as client:
        asked = [client.chat(MODEL, "Hello", max_tokens=1) for _ in range(5)]
        ended = await asyncio.gather(*asked, return_exceptions=True)
    refused = [error for error in ended if isinstance(error, RateLimited)]
    assert refused
    assert refused[0].reason == "REQUESTS_EXHAUSTED"
    assert refused[0].limits[0].subject == "users/tester"
    assert refused[0].retry_after is not None


async def test_no_worker(start_mesh: StartMesh) -> None:
    mesh: Mesh = await start_mesh(router={"wait_for_worker_s": 0.1})
    await mesh.workers[0].terminate()
    async with AsyncClient(mesh.address("router"), credential=mesh.key, retry=None) as client:
        with pytest.raises(Unavailable) as failed:
            await client.chat(MODEL, "Hello")
    assert failed.value.reason == "NO_WORKER"
    assert failed.value.retry_after is not None
