"""The launcher's RPC edge."""

# ruff: noqa: N802  gRPC names the methods.
from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
from weft.launcher.v1 import launcher_pb2 as pb
from weft.launcher.v1 import launcher_pb2_grpc

from services.core.catalogue import Catalogue
from services.core.errors import Reason, ServiceError
from services.core.names import check, endpoint_name
from services.core.principal import Role
from services.core.tracing import parse
from services.launcher.board import Board
from services.launcher.messages import to_endpoint_state, to_queue, to_start
from services.launcher.queues import Queues
from services.launcher.requests import launched
from services.launcher.starts import Start
from services.launcher.states import EndpointState
from services.launcher.store import Store
from services.rpc.boundary import Access, caller
from services.rpc.paging import from_token, page_size, to_token

SERVICE: Final = "weft.launcher.v1.LauncherService"

_SERVICE: Final = frozenset({Role.SERVICE})
_ADMIN: Final = frozenset({Role.ADMIN})
ACCESS: Final[Access] = {
    f"/{SERVICE}/Want": _SERVICE,
    f"/{SERVICE}/Watch": _SERVICE,
    f"/{SERVICE}/ListStarts": _SERVICE | _ADMIN,
    f"/{SERVICE}/StopStart": _ADMIN,
    f"/{SERVICE}/GetQueue": _SERVICE | _ADMIN,
}

_ROUTER_LENGTH: Final = 200
_WAITING_MOST: Final = 1_000_000

_Context = Any  # grpc.aio.ServicerContext; none of the methods uses it.


class LauncherServicer(launcher_pb2_grpc.LauncherServiceServicer):
    """`weft.launcher.v1.LauncherService`, whose proto says what each method does. It writes wants and wishes to stop;
    whichever launcher acts reads them. `wake` is called when there is a new one.
    """

    def __init__(
        self,
        store: Store,
        board: Board,
        queues: Queues,
        catalogue: Callable[[], Catalogue | None],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._board = board
        self._queues = queues
        self._catalogue = catalogue
        self._wake = wake
        self._clock = clock

    async def Want(self, request: pb.WantRequest, context: _Context) -> pb.WantResponse:
        endpoint_name(request.endpoint, param="endpoint")
        if not 0 < len(request.router) <= _ROUTER_LENGTH:
            message = f"'router' must be the router's name, 1 to {_ROUTER_LENGTH} characters."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="router")
        state = self._board.get(request.endpoint)
        if state is None and launched((self._catalogue() or Catalogue()).endpoints.get(request.endpoint)) is None:
            message = f"No workers are started for '{request.endpoint}': it has no launch policy."
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, message, param="endpoint")
        waiting = min(request.waiting, _WAITING_MOST)
        cause = parse(request.traceparent)
        traceparent = cause.traceparent if cause is not None else ""
        await self._store.say_want(request.endpoint, request.router, waiting, self._clock(), traceparent)
        if state is None or state.state is None:
            self._wake()
        # An endpoint that was made a moment ago has no state yet: its first round is still to come.
        return pb.WantResponse(state=to_endpoint_state(state or EndpointState(request.endpoint)))

    async def Watch(self, request: pb.WatchRequest, context: _Context) -> AsyncIterator[pb.WatchResponse]:
        async for news in self._board.watch():
            yield pb.WatchResponse(endpoints=map(to_endpoint_state, news.endpoints), gone=news.gone)

    async def ListStarts(self, request: pb.ListStartsRequest, context: _Context) -> pb.ListStartsResponse:
        if request.endpoint:
            endpoint_name(request.endpoint, param="endpoint")
        size = page_size(request.page_size)
        found = await self._store.page(
            endpoint=request.endpoint,
            ended=request.show_ended,
            after=_from_token(request.page_token),
            limit=size + 1,
        )
        page = found[:size]
        token = _to_token(page[-1]) if len(found) > size else ""
        return pb.ListStartsResponse(starts=map(to_start, page), next_page_token=token)

    async def StopStart(self, request: pb.StopStartRequest, context: _Context) -> pb.StopStartResponse:
        (identity,) = check("start", request.name)
        if not await self._store.ask_stop(identity, f"{caller().name} asked for its end"):
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, f"There is no '{request.name}'.", param="name")
        self._wake()
        start = await self._store.find(identity)
        if start is None:
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, f"There is no '{request.name}'.", param="name")
        return pb.StopStartResponse(start=to_start(start))

    async def GetQueue(self, request: pb.GetQueueRequest, context: _Context) -> pb.GetQueueResponse:
        check("cluster", request.cluster, param="cluster")
        catalogue = self._catalogue()
        if catalogue is None:
            raise ServiceError(Reason.REGISTRY_UNAVAILABLE, retry_after=1.0)
        if request.cluster not in catalogue.clusters:
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, f"There is no '{request.cluster}'.", param="cluster")
        return to_queue(await self._queues.ask(catalogue, request.cluster))


def _to_token(last: Start) -> str:
    return to_token(msgspec.json.encode((last.created_at, last.id)).decode())


def _from_token(token: str) -> tuple[float, str] | None:
    if not token:
        return None
    try:
        return msgspec.json.decode(from_token(token, "["), type=tuple[float, str])
    except msgspec.DecodeError:
        message = "'page_token' must be the 'next_page_token' of an answer to the same request; leave it out to begin."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="page_token") from None
