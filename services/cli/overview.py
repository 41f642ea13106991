"""What `weft status` shows: gathered from router, registry and launcher, as far as they can be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from weft.inference.v1 import inference_pb2, inference_pb2_grpc
from weft.launcher.v1 import launcher_pb2, launcher_pb2_grpc
from weft.registry.v1 import registry_pb2, registry_pb2_grpc, resources_pb2
from weft.session.v1 import frame_pb2, session_pb2, session_pb2_grpc

from services.cli.connection import Connection, connect
from services.core.errors import ServiceError
from services.runtime.config import Config

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One attached worker. Tokens are totals since its vLLM started; `kv_cache_usage` is from 0 to 1."""

    instance: str
    state: str
    detail: str
    models: list[str]
    running: int
    waiting: int
    kv_cache_usage: float
    open_calls: int
    ended_calls: int
    prompt_tokens: int
    generation_tokens: int


@dataclass(frozen=True, slots=True)
class StartRow:
    """One start of a worker. `queue_position` is 0 and `expected_start`, in ISO 8601, is empty where they are not
    known.
    """

    name: str
    slot: int
    state: str
    detail: str
    instance: str = ""
    job: str = ""
    queue_position: int = 0
    expected_start: str = ""
    job_end: str = ""


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """One endpoint. `availability` and `backend` are empty if the registry could not be asked. `starts` are those that
    are not over; or if the last one failed, and nothing is under way, that one.
    """

    name: str
    availability: str = ""
    backend: str = ""
    notice: str = ""
    models: list[str] = field(default_factory=list)
    workers: list[WorkerRow] = field(default_factory=list)
    starts: list[StartRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Overview:
    """All that is known. `unreachable` holds a sentence for each part that could not be asked; `no_launcher` is the one
    about the launcher, which is asked only where workers are to be started.
    """

    models: list[str]
    endpoints: list[EndpointRow]
    unreachable: list[str]
    no_launcher: str = ""

    def to_builtins(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


async def look(config: Config, key: str | None = None) -> Overview:
    """Asks all parts at once; those that cannot be reached are named in the answer. Without `key`, the caller's."""
    unreachable: list[str] = []

    async def ask(part: Callable[[Config, str | None], Awaitable[list[_Answer]]]) -> list[_Answer]:
        try:
            return await part(config, key)
        except ServiceError as error:
            if error.message not in unreachable:
                unreachable.append(error.message)
            return []

    endpoints, sessions, models = await asyncio.gather(ask(_endpoints), ask(_sessions), ask(_models))
    launched = [endpoint.name for endpoint in endpoints if endpoint.globus.HasField("launch")]
    # Where nothing is to be started, nobody misses a launcher that does not run.
    others = len(unreachable)
    starts = await ask(partial(_starts, launched)) if launched else []
    return Overview(models, _rows(endpoints, sessions, starts), unreachable, "".join(unreachable[others:]))


def _rows(
    endpoints: list[resources_pb2.Endpoint], sessions: list[session_pb2.Session], starts: list[launcher_pb2.Start]
) -> list[EndpointRow]:
    rows = {
        endpoint.name: EndpointRow(
            endpoint.name,
            resources_pb2.Availability.Name(endpoint.availability).removeprefix("AVAILABILITY_").lower(),
            endpoint.WhichOneof("backend") or "",
            endpoint.notice,
            [binding.model for binding in endpoint.models],
        )
        for endpoint in endpoints
    }
    for session in sessions:
        rows.setdefault(session.endpoint, EndpointRow(session.endpoint)).workers.append(_worker(session))
    for start in starts:
        rows.setdefault(start.endpoint, EndpointRow(start.endpoint)).starts.append(to_start_row(start))
    return [rows[name] for name in sorted(rows)]


def to_start_row(start: launcher_pb2.Start) -> StartRow:
    """A start for people."""
    return StartRow(
        name=start.name,
        slot=start.slot,
        state=launcher_pb2.StartState.Name(start.state).removeprefix("START_STATE_").lower(),
        detail=start.detail,
        instance=start.instance,
        job=start.job,
        queue_position=start.queue_position,
        expected_start=_local(start.expected_start_time) if start.HasField("expected_start_time") else "",
        job_end=_local(start.job_end_time) if start.HasField("job_end_time") else "",
    )


def _local(time: Timestamp) -> str:
    return datetime.fromtimestamp(time.seconds).astimezone().isoformat(timespec="minutes")


def _worker(session: session_pb2.Session) -> WorkerRow:
    report, load = session.report, session.report.load
    return WorkerRow(
        instance=session.instance,
        state=frame_pb2.WorkerState.Name(report.state).removeprefix("WORKER_STATE_").lower(),
        detail=report.detail,
        models=[model.id for model in report.models],
        running=load.num_requests_running,
        waiting=load.num_requests_waiting,
        kv_cache_usage=load.kv_cache_usage,
        open_calls=session.open_calls,
        ended_calls=session.ended_calls,
        prompt_tokens=load.prompt_tokens,
        generation_tokens=load.generation_tokens,
    )


async def _endpoints(config: Config, key: str | None) -> list[resources_pb2.Endpoint]:
    async with connect(config, "registry", key=key) as registry:
        list_endpoints = registry_pb2_grpc.RegistryServiceStub(registry.channel).ListEndpoints
        return await _pages(registry, list_endpoints, registry_pb2.ListEndpointsRequest(), "endpoints")


async def _sessions(config: Config, key: str | None) -> list[session_pb2.Session]:
    async with connect(config, "router", key=key) as router:
        list_sessions = session_pb2_grpc.SessionServiceStub(router.channel).ListSessions
        return await _pages(router, list_sessions, session_pb2.ListSessionsRequest(), "sessions")


async def _starts(endpoints: list[str], config: Config, key: str | None) -> list[launcher_pb2.Start]:
    """The live starts; of an endpoint without any, the last one if it failed."""
    async with connect(config, "launcher", key=key) as launcher:
        list_starts = launcher_pb2_grpc.LauncherServiceStub(launcher.channel).ListStarts
        starts = await _pages(launcher, list_starts, launcher_pb2.ListStartsRequest(), "starts")
        live = {start.endpoint for start in starts}
        for endpoint in endpoints:
            if endpoint not in live:
                last = launcher_pb2.ListStartsRequest(endpoint=endpoint, show_ended=True, page_size=1)
                answer = await list_starts(last, metadata=launcher.metadata, timeout=launcher.timeout)
                starts += [start for start in answer.starts if start.state == launcher_pb2.START_STATE_FAILED]
        return starts


async def _models(config: Config, key: str | None) -> list[str]:
    async with connect(config, "router", key=key) as router:
        list_models = inference_pb2_grpc.InferenceServiceStub(router.channel).ListModels
        models = await _pages(router, list_models, inference_pb2.ListModelsRequest(), "models")
        return [model.id for model in models]


async def _pages(connection: Connection, method: Any, request: Any, field_name: str) -> list[Any]:
    """Every item of a paginated list."""
    items: list[Any] = []
    while True:
        answer = await method(request, metadata=connection.metadata, timeout=connection.timeout)
        items += getattr(answer, field_name)
        request.page_token = answer.next_page_token
        if not request.page_token:
            return items
