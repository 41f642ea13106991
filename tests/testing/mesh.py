"""A real mesh for tests: auth, registry, router, facade and workers with simulated vLLMs, a process each.

    async def test_a_call_survives_it(start_mesh):
        mesh = await start_mesh(workers=2, router={"max_attempts": 2}, sim=("--ttft-s", "0.5"))
        await mesh.workers[0].kill()
        answer = await mesh.openai().chat.completions.create(...)
        assert await mesh.router.metric("weft_router_calls_total", outcome="ok") == 1

`start_mesh` gives a test meshes of its own; `mesh` is one for all tests that do it no harm. When a test fails, the logs
of all parts stand in its report. Nothing is left running, whatever happens to the test run.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from weft.auth.v1 import auth_pb2, auth_pb2_grpc
from weft.inference.v1 import inference_pb2, inference_pb2_grpc
from weft.registry.v1 import registry_pb2_grpc
from weft.session.v1 import session_pb2, session_pb2_grpc

from services.cli.certs import DIRECTORY, ensure
from services.cli.parts import KEYS, Vllm, service_part, simulated_vllm, to_environ, worker_part
from services.cli.settings import load
from services.rpc.channel import bearer
from services.rpc.wire import Wire
from services.runtime.tls import TlsConfig
from tests.testing.processes import SOON, HeldPort, Part

if TYPE_CHECKING:
    from openai import AsyncOpenAI

ENDPOINT = "clusters/local/endpoints/sim"
SERVICES = ("auth", "registry", "router", "facade")
PORTS = (*SERVICES, "launcher")
"""Every service has a port of its own, also one that does not run."""
POLL = 0.02

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """What mesh a test wants. `auth`, `registry`, `router`, `facade`, `launcher` and `tracing` are settings of their
    sections in weft.yaml; `sim` and `worker` are command-line flags; `services` are those to start, the launcher only
    where it is named; `grace` is in seconds. With `mtls`, its parts know each other by certificates.
    """

    workers: int = 1
    services: Sequence[str] = SERVICES
    auth: Settings = field(default_factory=dict)
    registry: Settings = field(default_factory=dict)
    router: Settings = field(default_factory=dict)
    facade: Settings = field(default_factory=dict)
    launcher: Settings = field(default_factory=dict)
    tracing: Settings = field(default_factory=dict)
    sim: Sequence[str] = ()
    worker: Sequence[str] = ()
    endpoints: Sequence[str] = (ENDPOINT,)
    grace: float = 10.0
    mtls: bool = False


@dataclass(frozen=True, slots=True)
class Stubs:
    """Every service's stub, and what each call needs beside its request: `auth.ListKeys(request, **stubs.call)`."""

    auth: auth_pb2_grpc.AuthServiceStub
    registry: registry_pb2_grpc.RegistryServiceStub
    inference: inference_pb2_grpc.InferenceServiceStub
    session: session_pb2_grpc.SessionServiceStub
    call: dict[str, Any]


class Mesh:
    """A running mesh. Its parts are `auth`, `registry`, `router`, `facade` and `workers`."""

    def __init__(self, home: Path, options: MeshOptions) -> None:
        self.home = home
        self.options = options
        self.workers: list[Part] = []
        self._ports = {service: HeldPort() for service in PORTS}
        # An Envoy that a test puts in front is believed.
        self.tls = TlsConfig(directory=DIRECTORY, envoy_ids=("spiffe://weft/envoy",)) if options.mtls else TlsConfig()
        environ = to_environ(self._settings())
        self._services = {
            service: Part(service_part(service, home, environ, grace=options.grace)) for service in options.services
        }

    # What it is made of

    @property
    def auth(self) -> Part:
        """The auth service."""
        return self._services["auth"]

    @property
    def registry(self) -> Part:
        """The registry."""
        return self._services["registry"]

    @property
    def router(self) -> Part:
        """The router."""
        return self._services["router"]

    @property
    def facade(self) -> Part:
        """The facade."""
        return self._services["facade"]

    @property
    def launcher(self) -> Part:
        """The launcher, where it was asked for."""
        return self._services["launcher"]

    @property
    def parts(self) -> list[Part]:
        """All parts, in the order of their start."""
        return [*self._services.values(), *self.workers]

    @property
    def url(self) -> str:
        """The base of the HTTP API, before `/v1`."""
        return f"http://{self.address('facade')}"

    @property
    def key(self) -> str:
        """The development key: roles user and admin, every model."""
        return (self.home / "dev.key").read_text().strip()

    @property
    def environ(self) -> dict[str, str]:
        """What makes any `weft` command speak to this mesh."""
        return {"WEFT_HOME": str(self.home), **to_environ(self._settings())}

    def address(self, service: str) -> str:
        """Where a service listens, also while it does not run."""
        return f"127.0.0.1:{self._ports[service].port}"

    # Its life

    async def start(self) -> None:
        """Starts all parts, and returns when the router knows the workers' models."""
        if self.options.mtls:
            ensure(load(self.environ), self.home / DIRECTORY)
        if "auth" in self._services:
            await self.auth.start()  # it makes the keys that the others read
        others = [part for name, part in self._services.items() if name != "auth"]
        for part in others:
            part.launch()
        for _ in range(self.options.workers):
            self.launch_worker()
        await asyncio.gather(*(asyncio.to_thread(part.wait_ready) for part in others))
        if self.workers:
            await self.until_attached(len(self.workers))

    def launch_worker(
        self,
        *,
        sim: Sequence[str] | None = None,
        vllm_url: str | None = None,
        endpoint: str | None = None,
        flags: Sequence[str] = (),
    ) -> Part:
        """Starts one more worker, with a simulator of its own or on a vLLM that runs, and does not wait for it."""
        vllm = Vllm(url=vllm_url) if vllm_url else simulated_vllm(*(self.options.sim if sim is None else sim))
        spec = worker_part(
            f"worker-{len(self.workers) + 1}",
            self.home,
            vllm,
            router=self.address("router"),
            endpoint=endpoint or self.options.endpoints[0],
            grace=self.options.grace,
            flags=(*self.options.worker, *flags),
            tls=self.tls,
        )
        self.workers.append(Part(spec))
        self.workers[-1].launch()
        return self.workers[-1]

    async def add_worker(self, **how: Any) -> Part:
        """As `launch_worker`; returns when the router has its models."""
        attached = len(await self.sessions())
        worker = self.launch_worker(**how)
        await self.until_attached(attached + 1)
        return worker

    def clear_away(self) -> None:
        """Ends every process, and gives the ports back."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(Part.clear_away, reversed(self.parts)))
        for port in self._ports.values():
            port.close()

    # What it says

    def openai(self, key: str | None = None, **settings: Any) -> "AsyncOpenAI":
        """OpenAI's client, without retries unless asked: a test is to see each error."""
        from openai import AsyncOpenAI  # a second's work, for the tests that want it

        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, **{"max_retries": 0, **settings})

    @asynccontextmanager
    async def stubs(self, key: str | None = None, wire: Wire | None = None) -> AsyncIterator[Stubs]:
        """Stubs for the body of the `async with`; an empty key is none. `wire` is the administrator's unless given."""
        call = {"metadata": bearer(self.key if key is None else key), "timeout": SOON}
        wire = wire or self.tls.wire("admin", self.home)
        async with (
            wire.dial(self.address("auth"), "auth") as auth,
            wire.dial(self.address("registry"), "registry") as registry,
            wire.dial(self.address("router"), "router") as router,
        ):
            yield Stubs(
                auth_pb2_grpc.AuthServiceStub(auth),
                registry_pb2_grpc.RegistryServiceStub(registry),
                inference_pb2_grpc.InferenceServiceStub(router),
                session_pb2_grpc.SessionServiceStub(router),
                call,
            )

    async def create_key(
        self,
        *,
        principal: str = "users/tester",
        allow: Sequence[str] = ("*",),
        deny: Sequence[str] = (),
        roles: Sequence[str] = ("user",),
    ) -> str:
        """A new key."""
        request = auth_pb2.CreateKeyRequest(
            principal=principal,
            roles=[auth_pb2.Role.Value(f"ROLE_{role.upper()}") for role in roles],
            permissions=auth_pb2.Permissions(allow_models=allow, deny_models=deny, allow_endpoints=["*"]),
        )
        async with self.stubs() as stubs:
            answer: auth_pb2.CreateKeyResponse = await stubs.auth.CreateKey(request, **stubs.call)
        return answer.key

    async def sessions(self) -> list[session_pb2.Session]:
        """The attached workers; none while the router is away."""
        async with self.stubs() as stubs:
            try:
                return list(
                    (await stubs.session.ListSessions(session_pb2.ListSessionsRequest(), **stubs.call)).sessions
                )
            except grpc.aio.AioRpcError:
                return []

    async def models(self) -> list[str]:
        """The models that the development key may call; none while the router is away."""
        async with self.stubs() as stubs:
            try:
                answer = await stubs.inference.ListModels(inference_pb2.ListModelsRequest(), **stubs.call)
            except grpc.aio.AioRpcError:
                return []
        return [model.id for model in answer.models]

    async def until_attached(self, workers: int) -> None:
        """Waits until so many workers are attached and have reported models."""
        await self.until(
            lambda: self._reported(), lambda reported: reported == workers, f"{workers} workers have reported models"
        )

    async def until(
        self, look: Callable[[], Awaitable[Any]], enough: Callable[[Any], bool], what: str, seconds: float = SOON
    ) -> Any:
        """Looks again and again until it is enough, and gives what was seen; fails with `what` after `seconds`."""
        seen: Any = None
        try:
            async with asyncio.timeout(seconds):
                while not enough(seen := await look()):  # noqa: ASYNC110 the event is in another process
                    await asyncio.sleep(POLL)
        except TimeoutError:
            pytest.fail(f"not within {seconds:g} s: {what}; last seen: {seen!r}", pytrace=True)
        return seen

    async def _reported(self) -> int:
        return sum(bool(session.report.models) for session in await self.sessions())

    def _settings(self) -> dict[str, Settings]:
        auth, registry, router = (self.address(service) for service in ("auth", "registry", "router"))
        launcher = self.address("launcher")
        options = self.options
        seed = {"endpoints": [{"name": endpoint} for endpoint in options.endpoints]}
        return {
            "metrics": {"port": 0},
            "tls": {"directory": self.tls.directory, "envoy_ids": self.tls.envoy_ids},
            "tracing": options.tracing,
            "auth": {"address": auth, "bootstrap_keys": KEYS, **options.auth},
            "registry": {"address": registry, "auth_address": auth, "seed": seed, **options.registry},
            "router": {
                "address": router,
                "registry_address": registry,
                "auth_address": auth,
                "launcher_address": launcher,
                **options.router,
            },
            "launcher": {
                "address": launcher,
                "registry_address": registry,
                "auth_address": auth,
                "router_addresses": [router],
                **options.launcher,
            },
            "facade": {
                "host": "127.0.0.1",
                "port": self._ports["facade"].port,
                "router_address": router,
                **options.facade,
            },
        }


StartMesh = Callable[..., Awaitable[Mesh]]

_running: set[Mesh] = set()


def hold(home: Path, options: MeshOptions) -> Mesh:
    """A mesh, not started yet, whose logs stand in the reports of tests that fail. It ends with `let_go`."""
    mesh = Mesh(home, options)
    _running.add(mesh)
    return mesh


def let_go(mesh: Mesh) -> None:
    """Ends all of a mesh, and forgets its home."""
    mesh.clear_away()
    _running.discard(mesh)
    shutil.rmtree(mesh.home, ignore_errors=True)


@pytest.fixture
def start_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartMesh]:
    """Starts meshes with the fields of `MeshOptions` as keywords; they end with the test."""
    started: list[Mesh] = []

    async def start(**options: Any) -> Mesh:
        started.append(hold(tmp_path_factory.mktemp("weft"), MeshOptions(**options)))
        await started[-1].start()
        return started[-1]

    yield start
    for mesh in started:
        let_go(mesh)


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh with one worker, for all tests that neither stop nor change its parts."""
    shared = hold(tmp_path_factory.mktemp("weft"), MeshOptions())
    try:
        asyncio.run(shared.start())
        yield shared
    finally:
        let_go(shared)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts the logs of the meshes that run into the report of a test that failed."""
    report = yield
    if report.failed:
        for mesh in _running:
            report.sections += [(f"log of {part.name} in {mesh.home.name}", part.log) for part in mesh.parts]
    return report
