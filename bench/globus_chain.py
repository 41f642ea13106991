"""The whole chain on one machine: mesh and launcher, the emulated service, a real endpoint, a real vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weft.launcher.v1 import launcher_pb2, launcher_pb2_grpc
from weft.registry.v1 import registry_pb2, resources_pb2

from services.rpc.channel import bearer, dial
from tests.globus import templates
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted
from tests.globus.rabbitmq import RabbitMQ
from tests.globus.run import Run
from tests.globus.site import make_site
from tests.testing.mesh import SERVICES, Mesh, MeshOptions, hold, let_go
from tests.vllm.processes import free_port
from tests.vllm.server import CHAT_OPTIONS, ENVIRONMENT, serve_command

SERVED: Final = "tiny"
BY_SESSION: Final = "bench/session"
BY_TASK: Final = "bench/task"
STARTED: Final = "clusters/bench/endpoints/started"
TASKS: Final = "clusters/bench/endpoints/tasks"

_OFTEN: Final = {"tick_s": 0.5}
"""So often does the launcher look: its times are to say when something happened, and not when it looked."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What is measured: the mesh, and the vLLM that a call to BY_SESSION starts, which listens at `vllm` from then on.
    Calls to BY_TASK reach the same one.
    """

    mesh: Mesh
    vllm: str

    async def ready_start(self) -> launcher_pb2.Start:
        """The one start of the worker, once the launcher has seen it ready, which may be after its first call."""
        async with dial(self.mesh.address("launcher")) as channel:
            stub = launcher_pb2_grpc.LauncherServiceStub(channel)

            async def look() -> launcher_pb2.Start:
                request = launcher_pb2.ListStartsRequest(endpoint=STARTED)
                (start,) = (await stub.ListStarts(request, metadata=bearer(self.mesh.key), timeout=10)).starts
                return start

            start: launcher_pb2.Start = await self.mesh.until(
                look, lambda start: bool(start.HasField("ready_time")), "the launcher has seen the worker ready"
            )
        return start


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Chain]:
    """The chain, cold: everything runs but a worker. As root, the endpoint's agent is an ordinary user's."""
    port = free_port()
    with _site(port) as (agent, home):
        mesh = hold(home, MeshOptions(services=(*SERVICES, "launcher"), workers=0, endpoints=(), launcher=_OFTEN))
        try:
            await mesh.start()
            command = (sys.executable, "-m", "services.cli", "functions", "register")
            register = await asyncio.create_subprocess_exec(*command, env={**os.environ, **mesh.environ})
            if await register.wait():
                raise RuntimeError("the functions could not be registered")
            await _create(mesh, agent.id, port)
            await mesh.until(mesh.sessions, lambda seen: len(seen) == 1, "task mode is attached", 30)
            yield Chain(mesh, f"http://127.0.0.1:{port}")
        finally:
            let_go(mesh)


@contextlib.contextmanager
def _site(port: int) -> Iterator[tuple[EndpointAgent, Path]]:
    run = Run()
    before = dict(os.environ)
    try:
        rabbitmq = RabbitMQ(run)
        rabbitmq.start()
        hosted = Hosted(run, rabbitmq)
        hosted.start()
        owner = hosted.identity("bench@example.org")
        os.environ.update({**hosted.environ, **owner.environ, "GLOBUS_COMPUTE_USER_DIR": str(run.folder / "sdk")})
        site = make_site(run)
        account = run.user("bench") if os.geteuid() == 0 else None
        agent = EndpointAgent(run, hosted, site, owner, "bench", user=account)
        agent.configure({}, templates.local(site.worker_init + _vllm(agent.scratch, port)))
        agent.start()
        yield agent, Path(tempfile.mkdtemp(prefix="weft-bench-globus-"))
    finally:
        run.close()
        os.environ.clear()
        os.environ.update(before)


def _vllm(scratch: Path, port: int) -> str:
    """The lines of `worker_init` by which start-worker finds its vLLM."""
    python = Path(os.environ["WEFT_VLLM_PYTHON"])
    command = serve_command(python, python.parents[1] / "models" / "chat", SERVED, CHAT_OPTIONS)
    where = ["--host", "127.0.0.1", "--port", str(port)]
    settings = {
        **ENVIRONMENT,
        "WEFT_VLLM_COMMAND": shlex.join([*command, *where]),
        "WEFT_RUN_DIR": str(scratch / "weft"),
        "WEFT_LOG_DIR": str(scratch / "logs"),
    }
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())


async def _create(mesh: Mesh, endpoint_uuid: str, port: int) -> None:
    """Two endpoints over the one of Globus Compute: one starts a worker, the other sends tasks to its vLLM."""
    started = resources_pb2.GlobusBackend(api_port=port, call_mode=resources_pb2.CALL_MODE_SESSION)
    started.launch.start_worker.endpoint_uuid = endpoint_uuid
    tasks = resources_pb2.GlobusBackend(api_port=port)
    tasks.inference.endpoint_uuid = endpoint_uuid
    async with mesh.stubs() as stubs:
        cluster = resources_pb2.Cluster(name="clusters/bench")
        await stubs.registry.CreateCluster(registry_pb2.CreateClusterRequest(cluster=cluster), **stubs.call)
        for name, model, backend in ((STARTED, BY_SESSION, started), (TASKS, BY_TASK, tasks)):
            binding = resources_pb2.ModelBinding(model=model, served_model=SERVED)
            endpoint = resources_pb2.Endpoint(name=name, framework="vllm", models=[binding], globus=backend)
            await stubs.registry.CreateEndpoint(registry_pb2.CreateEndpointRequest(endpoint=endpoint), **stubs.call)


def built(script: str) -> str:
    """The Python of an environment that tests need, built if it is not there yet."""
    done = subprocess.run([sys.executable, script], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()
