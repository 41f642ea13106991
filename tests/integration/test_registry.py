"""The registry over a real socket: who may do what, and a watcher through changes, restarts and silence."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from weft.auth.v1 import auth_pb2, auth_pb2_grpc
from weft.registry.v1 import registry_pb2, registry_pb2_grpc, resources_pb2

from services.core.catalogue import Availability, Catalogue
from services.core.errors import Reason, ServiceError
from services.registry.config import RegistryConfig, Seed, SeedEndpoint
from services.registry.main import serve
from services.registry.servicer import ACCESS
from services.rpc.catalogue import CatalogueWatcher
from services.rpc.channel import bearer, dial
from services.rpc.errors import from_rpc_error
from services.rpc.server import check_health
from services.rpc.status import abort
from services.runtime.process import Process
from tests.testing.processes import HeldPort

ROLES = {"admin-key": auth_pb2.ROLE_ADMIN, "service-key": auth_pb2.ROLE_SERVICE, "user-key": auth_pb2.ROLE_USER}
SEED = Seed(endpoints=[SeedEndpoint("clusters/local/endpoints/sim")])
GLOBUS = "6f5c9a3e-2e2b-4a50-9d7e-1a4f0a6f1a11"
TIMEOUT = 20.0


class FakeAuth(auth_pb2_grpc.AuthServiceServicer):
    async def Authenticate(  # noqa: N802
        self, request: auth_pb2.AuthenticateRequest, context: grpc.aio.ServicerContext
    ) -> auth_pb2.AuthenticateResponse:
        role = ROLES.get(request.credential)
        if role is None:
            await abort(context, ServiceError(Reason.CREDENTIAL_INVALID))
        response = auth_pb2.AuthenticateResponse(principal=auth_pb2.Principal(name="users/test", roles=[role]))
        response.max_age.FromSeconds(60)
        return response


@pytest.fixture
async def auth_address() -> AsyncIterator[str]:
    server = grpc.aio.server()
    auth_pb2_grpc.add_AuthServiceServicer_to_server(FakeAuth(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@asynccontextmanager
async def running(config: RegistryConfig, home: Path) -> AsyncIterator[str]:
    """A registry in this process; gives its address."""
    (home / "service.key").write_text("service-key\n")
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    process = Process(home=home, ready=lambda name, address: ready.set_result(address), grace=1.0)
    task = asyncio.ensure_future(serve(config, process))
    try:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield ready.result()
    finally:
        process.stopping.set()
        async with asyncio.timeout(TIMEOUT):
            await task


@asynccontextmanager
async def stub_of(address: str) -> AsyncIterator[registry_pb2_grpc.RegistryServiceStub]:
    async with dial(address) as channel:
        yield registry_pb2_grpc.RegistryServiceStub(channel)


class Seen:
    """What a watcher told, and a way to wait for it."""

    def __init__(self) -> None:
        self.catalogues: list[Catalogue] = []
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, catalogue: Catalogue) -> None:
        self.catalogues.append(catalogue)
        self._tasks.add(asyncio.get_running_loop().create_task(self._tell()))

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def until(self, condition: Callable[[Catalogue], bool]) -> Catalogue:
        async with asyncio.timeout(TIMEOUT), self._news:
            await self._news.wait_for(lambda: bool(self.catalogues) and condition(self.catalogues[-1]))
        return self.catalogues[-1]


@asynccontextmanager
async def watching(address: str, seen: Seen, file: Path | None = None) -> AsyncIterator[CatalogueWatcher]:
    watcher = CatalogueWatcher(address, lambda: "service-key", changed=seen, file=file)
    watcher.start()
    try:
        yield watcher
    finally:
        await watcher.close()


async def refused(call: grpc.aio.UnaryUnaryCall) -> Reason:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value, unavailable=Reason.REGISTRY_UNAVAILABLE).reason


async def drain(address: str, *, resume: bool = False) -> None:
    async with stub_of(address) as stub:
        request = registry_pb2.DrainEndpointRequest(name="clusters/local/endpoints/sim", resume=resume)
        await stub.DrainEndpoint(request, metadata=bearer("admin-key"), timeout=TIMEOUT)


def is_draining(catalogue: Catalogue) -> bool:
    return catalogue.endpoints["clusters/local/endpoints/sim"].availability is Availability.DRAINING


async def test_access_and_health(tmp_path: Path, auth_address: str) -> None:
    config = RegistryConfig(address="127.0.0.1:0", auth_address=auth_address, seed=SEED)
    async with running(config, tmp_path) as address, stub_of(address) as stub:
        create = registry_pb2.CreateClusterRequest(cluster=resources_pb2.Cluster(name="clusters/new"))
        get = registry_pb2.GetClusterRequest(name="clusters/local")
        assert (await stub.GetCluster(get, metadata=bearer("service-key"))).cluster.name == "clusters/local"
        assert (await stub.CreateCluster(create, metadata=bearer("admin-key"))).cluster.etag
        assert await refused(stub.CreateCluster(create, metadata=bearer("service-key"))) is Reason.ACTION_FORBIDDEN
        assert await refused(stub.GetCluster(get, metadata=bearer("user-key"))) is Reason.ACTION_FORBIDDEN
        assert await refused(stub.GetCluster(get, metadata=bearer("nonsense"))) is Reason.CREDENTIAL_INVALID
        assert await refused(stub.GetCluster(get)) is Reason.CREDENTIAL_MISSING
        async with dial(address) as channel:
            assert await check_health(channel, "weft.registry.v1.RegistryService", timeout=TIMEOUT)


def test_every_method_has_its_access() -> None:
    service = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"]
    assert set(ACCESS) == {f"/{service.full_name}/{method.name}" for method in service.methods}


async def test_watcher_sees_changes_and_outlives_restarts(tmp_path: Path, auth_address: str) -> None:
    port = HeldPort()  # nobody else's while no registry is there
    config = RegistryConfig(address=f"127.0.0.1:{port.port}", auth_address=auth_address, seed=SEED)
    seen = Seen()
    async with running(config, tmp_path) as address:
        watcher = CatalogueWatcher(address, lambda: "service-key", changed=seen)
        watcher.start()
        assert (await watcher.wait_first()).open_endpoints[0].name == "clusters/local/endpoints/sim"
        await drain(address)
        await seen.until(is_draining)
    assert watcher.current is not None, "the last catalogue stays"
    async with running(config, tmp_path):
        await drain(address, resume=True)
        await seen.until(lambda catalogue: not is_draining(catalogue))
        assert watcher.connected
        await watcher.close()
    port.close()


async def test_kept_catalogue_serves_while_the_registry_is_away(tmp_path: Path, auth_address: str) -> None:
    config = RegistryConfig(address="127.0.0.1:0", auth_address=auth_address, seed=SEED)
    file = tmp_path / "router" / "catalogue.bin"
    seen = Seen()
    async with running(config, tmp_path) as address, watching(address, seen, file) as watcher:
        await watcher.wait_first()
        await drain(address)
        await seen.until(is_draining)  # one catalogue is kept before the next is read
    async with watching(address, Seen(), file) as watcher:
        assert watcher.current is not None
        assert "clusters/local/endpoints/sim" in watcher.current.endpoints
        assert not watcher.connected


@pytest.mark.parametrize("content", [b"", b"\xff not a catalogue"])
async def test_a_damaged_file_is_as_none(tmp_path: Path, auth_address: str, content: bytes) -> None:
    file = tmp_path / "catalogue.bin"
    file.write_bytes(content)
    config = RegistryConfig(address="127.0.0.1:0", auth_address=auth_address, seed=SEED)
    async with running(config, tmp_path) as address, watching(address, Seen(), file) as watcher:
        async with asyncio.timeout(TIMEOUT):
            assert (await watcher.wait_first()).endpoints


async def test_a_silent_registry_is_left_and_dialled_again() -> None:
    dialled = asyncio.Queue[None]()

    class Silent(registry_pb2_grpc.RegistryServiceServicer):
        async def Watch(  # noqa: N802
            self, request: registry_pb2.WatchRequest, context: grpc.aio.ServicerContext
        ) -> AsyncIterator[registry_pb2.WatchResponse]:
            dialled.put_nowait(None)
            yield registry_pb2.WatchResponse(revision="1", snapshot=registry_pb2.Catalogue())
            await asyncio.Event().wait()

    server = grpc.aio.server()
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(Silent(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    watcher = CatalogueWatcher(f"127.0.0.1:{port}", lambda: "service-key", silence=0.5)
    watcher.start()
    try:
        async with asyncio.timeout(TIMEOUT):
            for _ in range(3):
                await dialled.get()
        assert watcher.current == Catalogue()
    finally:
        await watcher.close()
        await server.stop(None)


async def weft(address: str, home: Path, *arguments: str) -> tuple[int | None, str, str]:
    """Runs a command against the registry; gives its exit code, its output, and what it says on standard error."""
    environment = {
        **os.environ,
        "WEFT_HOME": str(home / "caller"),
        "WEFT_API_KEY": "admin-key",
        "WEFT_REGISTRY__ADDRESS": address,
    }
    command = (sys.executable, "-m", "services.cli", *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_import_by_command(tmp_path: Path, auth_address: str) -> None:
    files = [f"tests/golden/first/older-{name}.json" for name in ("federated-endpoints", "endpoints")]
    config = RegistryConfig(address="127.0.0.1:0", auth_address=auth_address)
    async with running(config, tmp_path) as address:
        code, _, err = await weft(address, tmp_path, "endpoints", "import", "tests/golden/first/broken.json")
        assert (code, "Traceback" in err) == (1, False)
        assert "tests/golden/first/broken.json: entry 1: field 'endpint_uuid' is not known" in err
        code, _, err = await weft(address, tmp_path, "endpoints", "import", files[0])
        assert (code, "which does not exist" in err) == (1, True), "its endpoints were never imported"
        _, out, _ = await weft(address, tmp_path, "endpoints", "import", "--dry-run", *files)
        assert "5 created, 0 updated, 0 unchanged; nothing was written" in out
        assert await weft(address, tmp_path, "endpoints", "list", "--json") == (0, "[]\n", "")
        _, out, err = await weft(address, tmp_path, "endpoints", "import", *files)
        assert "created    routes/federated-opt-125m" in out, err
        assert "5 created, 0 updated, 0 unchanged." in out
        sophia = "clusters/sophia/endpoints/sophia-vllm-opt-125m"
        assert (await weft(address, tmp_path, "endpoints", "drain", sophia))[0] == 0
        _, out, _ = await weft(address, tmp_path, "endpoints", "import", *files)
        assert "0 created, 0 updated, 3 unchanged." in out
        _, out, _ = await weft(address, tmp_path, "endpoints", "show", sophia)
        assert json.loads(out)["availability"] == "AVAILABILITY_DRAINING"


async def test_globus_endpoints_by_command(tmp_path: Path, auth_address: str) -> None:
    config = RegistryConfig(address="127.0.0.1:0", auth_address=auth_address)
    name = "clusters/sophia/endpoints/opt"
    async with running(config, tmp_path) as address:

        async def run(*arguments: str) -> dict[str, Any]:
            code, out, err = await weft(address, tmp_path, *arguments)
            assert code == 0, err
            found: dict[str, Any] = json.loads(out)
            return found

        cluster = await run("clusters", "create", "clusters/sophia", "--queue-status", GLOBUS)
        assert cluster["queue_status"] == {"endpoint_uuid": GLOBUS}
        assert "queue_status" not in await run("clusters", "update", "clusters/sophia", "--queue-status", "")
        create = ["endpoints", "create", name, "--model", "opt", "--globus", GLOBUS, "--max-workers", "2"]
        assert (await run(*create, "--config", "nodes=2", "--config", "queue=by-gpu"))["globus"] == {
            "launch": {
                "start_worker": {"endpoint_uuid": GLOBUS},
                "max_workers": 2,
                "user_endpoint_config": {"nodes": 2.0, "queue": "by-gpu"},
            }
        }
        changed = await run("endpoints", "update", name, "--walltime", "1h", "--call-mode", "task")
        assert changed["globus"]["call_mode"] == "CALL_MODE_TASK"
        assert changed["globus"]["launch"]["walltime"] == "3600s"
        assert changed["globus"]["launch"]["max_workers"] == 2
        for arguments, complaint in (
            (["update", name, "--min-workers", "3"], "'endpoint.globus.launch.min_workers' must be at most"),
            (["update", name, "--url", "http://a", "--serves", "users/x"], "an endpoint is of a --url or of Globus"),
            (["create", f"{name}2", "--keep-warm"], "give --globus too"),
            (["create", f"{name}2", "--globus", "sophia"], "'sophia' is no UUID"),
        ):
            code, _, err = await weft(address, tmp_path, "endpoints", *arguments)
            assert (code != 0, complaint in err) == (True, True), err
        assert await weft(address, tmp_path, "functions", "list", "--json") == (0, "[]\n", "")


async def test_two_registries_on_one_postgresql(tmp_path: Path, auth_address: str, postgresql_url: str) -> None:
    config = RegistryConfig(address="127.0.0.1:0", auth_address=auth_address, seed=SEED, database=postgresql_url)
    one_home, other_home = tmp_path / "one", tmp_path / "other"
    one_home.mkdir()
    other_home.mkdir()
    seen = Seen()
    async with running(config, one_home) as one, running(config, other_home) as other, watching(other, seen):
        await seen.until(lambda catalogue: not is_draining(catalogue))
        await drain(one)
        await seen.until(is_draining)
