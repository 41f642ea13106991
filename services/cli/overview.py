"""What `weft status` shows: gathered from the router and the registry, as far as they can be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from weft.inference.v1 import inference_pb2, inference_pb2_grpc
from weft.registry.v1 import registry_pb2, registry_pb2_grpc, resources_pb2
from weft.session.v1 import frame_pb2, session_pb2, session_pb2_grpc

from services.cli.connection import Connection, connect, read_key
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
class EndpointRow:
    """One endpoint. `availability` and `backend` are empty if the registry could not be asked."""

    name: str
    availability: str = ""
    backend: str = ""
    notice: str = ""
    models: list[str] = field(default_factory=list)
    workers: list[WorkerRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Overview:
    """All that is known. `unreachable` holds a sentence for each part that could not be asked."""

    models: list[str]
    endpoints: list[EndpointRow]
    unreachable: list[str]

    def to_builtins(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


async def look(config: Config, key: str | None = None) -> Overview:
    """Asks all parts at once; those that cannot be reached are named in the answer. Without `key`, the caller's."""
    credential = key or read_key(config)
    unreachable: list[str] = []

    async def ask(part: Callable[[Config, str], Awaitable[list[_Answer]]]) -> list[_Answer]:
        try:
            return await part(config, credential)
        except ServiceError as error:
            if error.message not in unreachable:
                unreachable.append(error.message)
            return []

    endpoints, sessions, models = await asyncio.gather(ask(_endpoints), ask(_sessions), ask(_models))
    return Overview(models, _rows(endpoints, sessions), unreachable)


def _rows(endpoints: list[resources_pb2.Endpoint], sessions: list[session_pb2.Session]) -> list[EndpointRow]:
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
    return [rows[name] for name in sorted(rows)]


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


async def _endpoints(config: Config, key: str) -> list[resources_pb2.Endpoint]:
    async with connect(config, "registry", key=key) as registry:
        list_endpoints = registry_pb2_grpc.RegistryServiceStub(registry.channel).ListEndpoints
        return await _pages(registry, list_endpoints, registry_pb2.ListEndpointsRequest(), "endpoints")


async def _sessions(config: Config, key: str) -> list[session_pb2.Session]:
    async with connect(config, "router", key=key) as router:
        list_sessions = session_pb2_grpc.SessionServiceStub(router.channel).ListSessions
        return await _pages(router, list_sessions, session_pb2.ListSessionsRequest(), "sessions")


async def _models(config: Config, key: str) -> list[str]:
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
