"""What changes while calls run: a router that is restarted, Envoy that is stopped, a certificate that is renewed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
from cryptography import x509
from weft.auth.v1 import auth_pb2

from services.cli.parts import service_part, to_environ
from tests.envoy.conftest import CERTIFICATES, StartFront
from tests.envoy.test_grpc import answered
from tests.testing.edge import CHAT, Front, events, second_home
from tests.testing.mesh import Mesh, StartMesh
from tests.testing.parts import requires_part
from tests.testing.processes import SOON, HeldPort, Part

pytestmark = requires_part("envoy")

STREAMED = {
    "model": "sim-model",
    "messages": [{"role": "user", "content": "a"}],
    "stream": True,
    "max_tokens": 100,
    "ignore_eos": True,
}
SLOW = ("--inter-token-s", "0.1", "--max-tokens", "200")
"""Ten seconds for an answer: time enough to stop Envoy meanwhile, also where a process stands still for some."""
CALLERS = 8


class Load:
    """Callers who call again and again, each as soon as its last answer is there. The first loss ends the test."""

    def __init__(self, call: Callable[[], Awaitable[None]]) -> None:
        self._call = call
        self._answers = 0
        self._callers: list[asyncio.Future[None]] = []

    async def _one(self) -> None:
        while True:
            await self._call()
            self._answers += 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """They call while the block runs, and before and after it."""
        self._callers = [asyncio.ensure_future(self._one()) for _ in range(CALLERS)]
        try:
            await self.more()
            yield self
            await self.more()
        finally:
            for caller in self._callers:
                caller.cancel()
            await asyncio.gather(*self._callers, return_exceptions=True)

    async def more(self) -> None:
        """Waits for two more answers of each. Raises what one of them met, since the beginning."""
        wanted = self._answers + 2 * CALLERS
        async with asyncio.timeout(SOON):
            while self._answers < wanted:
                await asyncio.wait(self._callers, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
                for caller in self._callers:
                    if caller.done():
                        await caller


async def test_one_of_two_routers_is_restarted_and_no_call_is_lost(
    start_mesh: StartMesh, start_envoy: StartFront, tmp_path: Path
) -> None:
    second = HeldPort()
    address = f"127.0.0.1:{second.port}"
    mesh = await start_mesh(
        mtls=True,
        auth={"certificates": CERTIFICATES},
        worker=("--router", f"https://{address}"),
        sim=("--ttft-s", "0.1"),
    )
    environ = {**mesh.environ, **to_environ({"router": {**_router(mesh.environ), "address": address}})}
    other = Part(service_part("router", second_home(mesh, tmp_path / "second"), _without_home(environ), grace=10))
    try:
        await other.start()
        front = await start_envoy(mesh, routers=[mesh.address("router"), address])

        async def both_healthy() -> int:
            return await front.stat("cluster.router.membership_healthy")

        async def attached() -> int:
            return int(sum([await part.metric("weft_router_sessions") for part in (mesh.router, other)]))

        await mesh.until(both_healthy, lambda healthy: healthy == 2, "both routers are healthy")
        await mesh.until(attached, lambda sessions: sessions == 2, "the worker serves both routers")
        async with front.dial() as channel:

            async def call() -> None:
                assert (await answered(channel)).endswith("data: [DONE]\n\n")

            async with Load(call).running() as load:
                for part in (mesh.router, other):
                    await part.restart()
                    await mesh.until(both_healthy, lambda healthy: healthy == 2, "both routers are healthy again")
                    await mesh.until(attached, lambda sessions: sessions == 2, "the worker serves both routers again")
                    await load.more()
    finally:
        other.clear_away()
        second.close()


async def test_one_of_two_facades_is_restarted_and_no_call_is_lost(
    start_mesh: StartMesh, start_envoy: StartFront, tmp_path: Path
) -> None:
    second = HeldPort()
    mesh = await start_mesh()
    environ = {**mesh.environ, **to_environ({"facade": {"host": "127.0.0.1", "port": second.port}})}
    other = Part(service_part("facade", second_home(mesh, tmp_path / "second"), _without_home(environ), grace=10))
    try:
        await other.start()
        front = await start_envoy(mesh, facades=[mesh.address("facade"), f"127.0.0.1:{second.port}"])

        async def both_healthy() -> int:
            return await front.stat("cluster.facade.membership_healthy")

        await mesh.until(both_healthy, lambda healthy: healthy == 2, "both facades are healthy")
        headers = {"authorization": f"Bearer {mesh.key}"}
        async with front.http() as client:

            async def call() -> None:
                async with client.post(CHAT, json={**STREAMED, "max_tokens": 8}, headers=headers) as answer:
                    assert events(await answer.text())[-1] == "[DONE]"

            async with Load(call).running() as load:
                for part in (mesh.facade, other):
                    await part.restart()
                    await mesh.until(both_healthy, lambda healthy: healthy == 2, "both facades are healthy again")
                    await load.more()
        # Nor was any sent to one that had gone, where only luck decides whether it can be tried again.
        assert await front.stat("cluster.facade.upstream_rq_retry") == 0
    finally:
        other.clear_away()
        second.close()


def _router(environ: dict[str, str]) -> dict[str, object]:
    return {"address": environ["WEFT_ROUTER__ADDRESS"].strip('"')}


def _without_home(environ: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name != "WEFT_HOME"}


async def test_envoy_ends_when_its_streams_have_ended(start_mesh: StartMesh, start_envoy: StartFront) -> None:
    mesh = await start_mesh(sim=SLOW)
    front = await start_envoy(mesh)
    headers = {"authorization": f"Bearer {mesh.key}"}
    async with front.http() as client, client.post(CHAT, json=STREAMED, headers=headers) as answer:
        first = await answer.content.readany()
        front.send(signal.SIGTERM)
        await mesh.until(lambda: _listens(front), lambda listens: not listens, "it takes no new connections")
        assert front.running
        got = events((first + await answer.content.read()).decode())
    assert got[-1] == "[DONE]"
    assert len(got) > 100
    assert await front.ended() == 0


async def test_a_stream_that_is_too_long_is_cut_when_the_time_is_over(
    start_mesh: StartMesh, start_envoy: StartFront
) -> None:
    mesh = await start_mesh(sim=SLOW)
    front = await start_envoy(mesh, drain_s=0.5)
    headers = {"authorization": f"Bearer {mesh.key}"}
    async with front.http() as client, client.post(CHAT, json=STREAMED, headers=headers) as answer:
        await answer.content.readany()
        assert await front.terminate() == 0
        try:
            rest = (await answer.content.read()).decode()
        except aiohttp.ClientPayloadError:
            rest = ""  # a chunked answer without its end: a client sees that it is not whole
        assert "[DONE]" not in rest
    assert "were still open" in front.log


async def _listens(front: Front) -> bool:
    host, _, port = front.https.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


async def test_envoys_own_death_is_told(start_mesh: StartMesh, start_envoy: StartFront) -> None:
    mesh = await start_mesh(workers=0)
    front = await start_envoy(mesh)
    async with aiohttp.ClientSession() as session, session.post(f"http://{front.admin}/quitquitquit"):
        pass
    assert await front.ended() == 1
    assert "envoy ended with exit code 0" in front.log


async def test_a_certificate_is_renewed_under_load(start_mesh: StartMesh, start_envoy: StartFront) -> None:
    mesh = await start_mesh(mtls=True, auth={"certificates": CERTIFICATES})
    front = await start_envoy(mesh)
    context = ssl.create_default_context(cafile=front.certs / "ca.pem")
    headers = {"authorization": f"Bearer {mesh.key}"}

    async def serial() -> int:
        host, _, port = front.https.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        der = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        return x509.load_der_x509_certificate(der).serial_number

    async with front.dial() as channel:

        async def call() -> None:
            assert (await answered(channel)).endswith("data: [DONE]\n\n")  # on the connection that was there before
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as fresh:
                url = f"https://{front.https}/v1/models"
                async with fresh.get(url, headers=headers) as answer:
                    assert answer.status == 200

        async with Load(call).running() as load:
            for _ in range(3):
                file = front.renew()
                new = x509.load_pem_x509_certificate(file.read_bytes()).serial_number
                await mesh.until(serial, lambda seen, new=new: seen == new, "the new certificate is shown")
                await load.more()
        # What is no certificate does not take the place of one.
        (front.certs / "envoy.pem").with_suffix(".tmp").write_text("no certificate")
        (front.certs / "envoy.pem").with_suffix(".tmp").replace(front.certs / "envoy.pem")
        async with Load(call).running() as load:
            await load.more()
        assert await serial() == new


async def test_a_rotated_service_key_is_shown(start_mesh: StartMesh, start_envoy: StartFront) -> None:
    mesh = await start_mesh(workers=0)
    front = await start_envoy(mesh)
    headers = {"authorization": f"Bearer {mesh.key}"}
    fresh = await mesh.create_key(principal="services/envoy", roles=("service",))
    old = await _service_key(mesh)
    (mesh.home / "service.key").write_text(fresh + "\n")
    shown = mesh.home / "envoy" / "sds" / "service-key.yaml"

    async def holds() -> bool:
        return fresh in shown.read_text()

    await mesh.until(holds, bool, "the new key is shown")
    async with mesh.stubs() as stubs:
        await stubs.auth.RevokeKey(auth_pb2.RevokeKeyRequest(name=old), **stubs.call)
    async with front.http() as client:

        async def status() -> int:
            async with client.get("/v1/models", headers=headers) as answer:
                return answer.status

        await mesh.until(status, lambda code: code == 200, "auth knows the new key")


async def _service_key(mesh: Mesh) -> str:
    """The name of the key that the mesh began with."""
    async with mesh.stubs() as stubs:
        answer = await stubs.auth.ListKeys(auth_pb2.ListKeysRequest(), **stubs.call)
    (name,) = [key.name for key in answer.keys if key.principal == "services/local"]
    return name
