"""A whole mesh on this machine: where its parts listen, how they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
from weft.inference.v1 import inference_pb2, inference_pb2_grpc
from weft.session.v1 import session_pb2, session_pb2_grpc

from services.cli.certs import DIRECTORY, ensure, ensure_envoy
from services.cli.connection import TIMEOUT
from services.cli.edges import find_envoy
from services.cli.inside import InsideServices
from services.cli.local_envoy import envoy_part, hosts_of, made_ca, placed, url_of
from services.cli.local_shape import GRACE, Shape, place
from services.cli.parts import service_part, to_environ, worker_part
from services.rpc.channel import bearer
from services.runtime.child import Child, ChildSpec
from services.runtime.config import Config
from services.runtime.supervisor import Supervisor
from services.runtime.tls import TlsConfig

POLL = 0.05
"""Seconds between two looks whether a model is there."""

Tell = Callable[[str], None]


class LocalMesh:
    """The parts of a mesh, from `start` to `stop`. `tell` is given what goes on, a sentence at a time."""

    def __init__(self, config: Config, shape: Shape, tell: Tell) -> None:
        self._shape = shape
        self._vllms = shape.vllms()
        self._tell = tell
        self._home = config.home
        places = place(config, shape)
        self._environ = {"WEFT_HOME": str(config.home), **to_environ(places)}
        self._router = str(places["router"]["address"])
        self._config = config
        self._tls = msgspec.structs.replace(config.section("tls", TlsConfig), **places["tls"])
        scheme = "https" if config.sections["facade"].tls_certificate_file else "http"
        self.url = f"{scheme}://{places['facade']['host']}:{places['facade']['port']}"
        self._certs = config.home / (self._tls.directory or DIRECTORY)
        self.ca: Path | None = None
        """The authority of the HTTPS address, where it is one of ours."""
        self.grpc = self._router
        """Where the mesh is reached by gRPC."""
        self.mutual = bool(self._tls.directory)
        """Whether callers need a certificate there."""
        self.traced = bool(places["tracing"]["local"])
        """Whether `weft trace` has something to show."""
        if shape.envoy:
            find_envoy()  # before anything is started
            self._envoy = placed(config, places["envoy"])
            if self.mutual:
                self.grpc = self._envoy.grpc_address
            self.url, self.ca = url_of(self._envoy.https_address), made_ca(config, self._certs)
        self._front = Supervisor(grace=GRACE, tell=tell)
        self._supervisor = Supervisor(grace=GRACE, tell=tell)
        self._inside = InsideServices(self._environ, grace=GRACE)

    @property
    def key(self) -> str:
        """The development key, which auth makes when it first starts."""
        return (self._home / "dev.key").read_text().strip()

    async def start(self) -> list[str]:
        """Starts all parts, and gives the models once there are any; none where there are no workers. Raises
        `ChildError` if a part fails.
        """
        if self._shape.mtls:
            ensure(self._config, self._home / self._tls.directory)
        if self._shape.one_process:
            self._tell("Starting auth, registry, router and facade in this process")
            await self._inside.start()
            workers = await self._start_workers()
        else:
            self._tell("Starting auth")
            await self._supervisor.start_ready(self._service("auth"))  # it makes the keys that the others read
            self._tell("Starting registry, router, facade and workers")
            registry = await self._supervisor.start(self._service("registry"))
            router = await self._supervisor.start(self._service("router"))
            workers = await self._start_workers()
            facade = await self._supervisor.start(self._service("facade"))
            await asyncio.gather(registry.ready(), router.ready(), facade.ready())
        if self._shape.launcher:
            self._tell("Starting the launcher")
            await self._supervisor.start_ready(self._service("launcher"))
        models = await self._first_models(workers) if workers else []
        if self._shape.envoy:
            self._tell("Starting Envoy")
            if self.ca is not None:
                ensure_envoy(self._config, self._certs, hosts_of(self._envoy))
            await self._front.start_ready(envoy_part(self._home, self._environ))
        return models

    async def run(self) -> None:
        """Keeps all parts running. Returns only if the services in this process end by themselves."""
        self._supervisor.keep()
        self._front.keep()
        await self._inside.ended()

    async def stop(self) -> None:
        """Stops all parts in order: what is in front first, so that calls in flight find the others."""
        await self._front.stop()
        await self._inside.stop()
        await self._supervisor.stop()

    def kill(self) -> None:
        """Ends all other processes at once."""
        self._front.kill()
        self._supervisor.kill()

    def _service(self, name: str) -> ChildSpec:
        return service_part(name, self._home, self._environ, grace=GRACE)

    async def _start_workers(self) -> list[Child]:
        return [
            await self._supervisor.start(
                worker_part(
                    f"worker-{number}",
                    self._home,
                    vllm,
                    router=self._router,
                    endpoint=self._shape.endpoint,
                    grace=GRACE,
                    tls=self._tls,
                )
            )
            for number, vllm in enumerate(self._vllms, start=1)
        ]

    async def _first_models(self, workers: list[Child]) -> list[str]:
        """Waits until the router knows a model, or a worker dies."""
        models = asyncio.ensure_future(self._poll_models())
        deaths = [asyncio.ensure_future(worker.died()) for worker in workers]
        try:
            await asyncio.wait({models, *deaths}, return_when=asyncio.FIRST_COMPLETED)
            for death in deaths:
                if death.done():
                    await death
            return await models
        finally:
            for task in (models, *deaths):
                task.cancel()
            await asyncio.gather(models, *deaths, return_exceptions=True)

    async def _poll_models(self) -> list[str]:
        async with self._tls.wire("admin", self._home).dial(self._router, "router") as channel:
            inference = inference_pb2_grpc.InferenceServiceStub(channel)
            sessions = session_pb2_grpc.SessionServiceStub(channel)
            told = ""
            while True:
                with contextlib.suppress(grpc.RpcError):  # a router that is just starting; it is awaited elsewhere
                    answer = await inference.ListModels(inference_pb2.ListModelsRequest(), **self._call())
                    if answer.models:
                        return [model.id for model in answer.models]
                    attached = await sessions.ListSessions(session_pb2.ListSessionsRequest(), **self._call())
                    details = [session.report.detail for session in attached.sessions if session.report.detail]
                    doing = details[0] if details else "Waiting for a worker to attach"
                    if doing != told:
                        self._tell(doing)
                        told = doing
                await asyncio.sleep(POLL)

    def _call(self) -> dict[str, Any]:
        return {"metadata": bearer(self.key), "timeout": TIMEOUT}
