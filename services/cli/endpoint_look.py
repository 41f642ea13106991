"""Finds out what `weft doctor --endpoint` diagnoses: asks registry and launcher, Globus Compute, and the node."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
from globus_compute_sdk import Client
from weft.launcher.v1 import launcher_pb2, launcher_pb2_grpc
from weft.registry.v1 import registry_pb2

from services.cli.connection import address_of, connect, read_key, wire_of
from services.cli.endpoint_facts import Facts, FailedStart, Unanswered
from services.cli.failures import CommandError
from services.cli.function_check import usable_versions
from services.cli.globus import named
from services.cli.resources import pages, unary
from services.core.catalogue import Endpoint
from services.core.globus import Function, GlobusBackend
from services.globus.control import Control
from services.globus.credentials import open_client
from services.globus.errors import GlobusError, Kind
from services.globus.tasks import Tasks
from services.rpc.channel import bearer
from services.rpc.globus import function_from_proto
from services.rpc.resources import endpoint_from_proto
from services.runtime.config import Config
from services.runtime.readiness import running

T = TypeVar("T")

PROBE: Final = "functions/probe"
_LAUNCHER_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Subject:
    """What the registry says of the endpoint, and of the functions."""

    endpoint: Endpoint
    globus: GlobusBackend
    functions: Mapping[str, Function]

    @property
    def endpoint_uuid(self) -> str:
        """The endpoint of Globus Compute that its workers, or else its calls, go to."""
        at = self.globus.launch.start_worker if self.globus.launch else self.globus.inference
        return at.endpoint_uuid if at else ""

    @property
    def needed(self) -> dict[str, list[str]]:
        """The UUIDs that would do for each function that it is to run, the preferred first."""
        explicit = {PROBE: ""}
        if self.globus.launch:
            explicit["functions/start-worker"] = self.globus.launch.start_worker.function_uuid
        elif self.globus.inference:
            explicit["functions/inference"] = self.globus.inference.function_uuid
        return {name: [uuid] if uuid else self._usable(name) for name, uuid in explicit.items()}

    @property
    def config(self) -> dict[str, Any]:
        """The values for the endpoint's template with which the probe gets to the node of the first worker."""
        if self.globus.launch is None:
            return {}
        return {**self.globus.launch.user_endpoint_config, "weft_endpoint": self.endpoint.name, "weft_slot": 0}

    def _usable(self, name: str) -> list[str]:
        function = self.functions.get(name)
        return usable_versions(function.versions, self.endpoint_uuid) if function else []


async def find(config: Config, name: str) -> Subject:
    """The endpoint `clusters/C/endpoints/E`, or `C/E`. Raises `CommandError` if it is not of Globus Compute, and
    `ServiceError`.
    """
    cluster, slash, endpoint = name.partition("/")
    if slash and cluster != "clusters":
        name = f"clusters/{cluster}/endpoints/{endpoint}"
    async with connect(config, "registry") as registry:
        found = await unary(registry, "GetEndpoint", registry_pb2.GetEndpointRequest(name=name))
        functions = await pages(registry, "ListFunctions", registry_pb2.ListFunctionsRequest(), "functions")
    domain = endpoint_from_proto(found.endpoint)
    if not isinstance(domain.backend, GlobusBackend):
        kind = found.endpoint.WhichOneof("backend")
        raise CommandError(f"{name} is reached by {kind}, not by Globus Compute; 'weft doctor' alone looks at it.")
    return Subject(domain, domain.backend, {proto.name: function_from_proto(proto) for proto in functions})


async def look(config: Config, subject: Subject, *, probe: bool, wait: float) -> Facts:
    """What is found out, step by step: whatever fails, what needs it is not asked. The probe is waited for so many
    seconds.
    """
    found: dict[str, Any] = {"failed_start": await _failed_start(config, subject.endpoint.name)}

    def facts() -> Facts:
        return Facts(
            subject.endpoint.name,
            subject.endpoint_uuid,
            subject.globus.call_mode,
            needed=subject.needed,
            python=platform.python_version(),
            **found,
        )

    client = await _or_error(lambda: open_client(named(config, subject.globus.credentials)))
    if isinstance(client, GlobusError):
        found["opened"] = client
        return facts()
    control = Control(client)
    found["status"] = status = await _or_error(lambda: control.status(subject.endpoint_uuid))
    if isinstance(status, GlobusError):
        return facts()
    allowed = await _or_error(lambda: control.allowed_functions(subject.endpoint_uuid))
    found["allowed"] = "all" if allowed is None else allowed
    if probe and (uuid := _runnable(subject.needed[PROBE], allowed)) and status.online:
        found["probe"] = await _probe(client, subject, uuid, _routers(config, subject), wait)
    return facts()


async def _probe(
    client: Client, subject: Subject, function_uuid: str, routers: list[str], wait: float
) -> Mapping[str, Any] | GlobusError | Unanswered:
    payload = {"routers": routers, "endpoint": subject.endpoint.name, "slot": 0}
    async with _tasks(client) as tasks:
        try:
            async with asyncio.timeout(wait):
                answer = await tasks.run("", subject.endpoint_uuid, function_uuid, payload, subject.config)
        except TimeoutError:
            return Unanswered(wait)
        except GlobusError as error:
            return error
    if not isinstance(answer, Mapping):
        return GlobusError(Kind.OTHER, "The probe's answer is in no shape that this version of Weft knows.")
    return answer


@asynccontextmanager
async def _tasks(client: Client) -> AsyncIterator[Tasks]:
    tasks = Tasks(lambda _: client)
    try:
        yield tasks
    finally:
        await tasks.close()


async def _or_error(ask: Callable[[], T]) -> T | GlobusError:
    try:
        return await asyncio.to_thread(ask)
    except GlobusError as error:
        return error


def _runnable(uuids: list[str], allowed: frozenset[str] | GlobusError | None) -> str:
    """The first of the versions that the endpoint allows; empty if none is."""
    if isinstance(allowed, GlobusError):
        return ""
    return next((uuid for uuid in uuids if allowed is None or uuid in allowed), "")


def _routers(config: Config, subject: Subject) -> list[str]:
    """The routers that its workers dial."""
    launch, launcher = subject.globus.launch, config.sections.get("launcher")
    if launch and launch.routers:
        return list(launch.routers)
    configured = getattr(launcher, "worker_routers", ()) or getattr(launcher, "router_addresses", ())
    return list(configured) or [address_of(config, "router")]


async def _failed_start(config: Config, endpoint: str) -> FailedStart | None:
    """The last start of the endpoint, if it failed; None too where no launcher can be asked."""
    ready, launcher = running(config.home, "launcher"), config.sections.get("launcher")
    address = ready.address if ready else getattr(launcher, "address", "")
    if not address:
        return None
    request = launcher_pb2.ListStartsRequest(endpoint=endpoint, show_ended=True, page_size=1)
    async with wire_of(config, "launcher").dial(address, "launcher") as channel:
        stub = launcher_pb2_grpc.LauncherServiceStub(channel)
        try:
            answer = await stub.ListStarts(request, metadata=bearer(read_key(config)), timeout=_LAUNCHER_TIMEOUT)
        except grpc.RpcError:
            return None
    for start in answer.starts:
        if start.state == launcher_pb2.START_STATE_FAILED:
            return FailedStart(start.name, start.detail)
    return None
