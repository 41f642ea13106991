"""The registry's RPCs: each opens a transaction, calls the edit, and wraps the answer."""

# ruff: noqa: N802  gRPC names the methods.
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, cast

from weft.registry.v1 import registry_pb2 as pb
from weft.registry.v1 import registry_pb2_grpc, resources_pb2

from services.core.names import check
from services.core.principal import Role
from services.registry import edits
from services.registry.store import Store
from services.registry.tables import CLUSTER, ENDPOINT, FUNCTION, ROUTE, Kind, Resource
from services.registry.watch import Hub
from services.rpc.boundary import Access
from services.rpc.paging import from_token, page_size, to_token

SERVICE: Final = "weft.registry.v1.RegistryService"
_READING: Final = frozenset({Role.SERVICE, Role.ADMIN})
_CHANGING: Final = frozenset({Role.ADMIN})
_READERS: Final = (
    "GetCluster",
    "ListClusters",
    "GetEndpoint",
    "ListEndpoints",
    "GetRoute",
    "ListRoutes",
    "GetFunction",
    "ListFunctions",
    "Watch",
)
_CHANGERS: Final = (
    "CreateCluster",
    "UpdateCluster",
    "DeleteCluster",
    "CreateEndpoint",
    "UpdateEndpoint",
    "DeleteEndpoint",
    "DrainEndpoint",
    "CreateRoute",
    "UpdateRoute",
    "DeleteRoute",
    "CreateFunction",
    "UpdateFunction",
    "DeleteFunction",
    "Apply",
)
ACCESS: Final[Access] = {
    **{f"/{SERVICE}/{method}": _READING for method in _READERS},
    **{f"/{SERVICE}/{method}": _CHANGING for method in _CHANGERS},
}

_Context = Any  # grpc.aio.ServicerContext; none of the methods uses it.


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """`weft.registry.v1.RegistryService`, whose proto says what each method does. Errors are raised as `ServiceError`;
    the boundary turns them into status.
    """

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub

    async def CreateCluster(self, request: pb.CreateClusterRequest, context: _Context) -> pb.CreateClusterResponse:
        async with self._store.write() as writer:
            return pb.CreateClusterResponse(cluster=await edits.create(writer, request.cluster))

    async def GetCluster(self, request: pb.GetClusterRequest, context: _Context) -> pb.GetClusterResponse:
        return pb.GetClusterResponse(cluster=cast("resources_pb2.Cluster", await self._get(CLUSTER, request.name)))

    async def ListClusters(self, request: pb.ListClustersRequest, context: _Context) -> pb.ListClustersResponse:
        clusters, token = await self._page(CLUSTER, request.page_size, request.page_token)
        return pb.ListClustersResponse(clusters=cast("list[resources_pb2.Cluster]", clusters), next_page_token=token)

    async def UpdateCluster(self, request: pb.UpdateClusterRequest, context: _Context) -> pb.UpdateClusterResponse:
        async with self._store.write() as writer:
            return pb.UpdateClusterResponse(cluster=await edits.update(writer, request.cluster, request.update_mask))

    async def DeleteCluster(self, request: pb.DeleteClusterRequest, context: _Context) -> pb.DeleteClusterResponse:
        await self._delete(CLUSTER, request.name, request.etag)
        return pb.DeleteClusterResponse()

    async def CreateEndpoint(self, request: pb.CreateEndpointRequest, context: _Context) -> pb.CreateEndpointResponse:
        async with self._store.write() as writer:
            return pb.CreateEndpointResponse(endpoint=await edits.create(writer, request.endpoint))

    async def GetEndpoint(self, request: pb.GetEndpointRequest, context: _Context) -> pb.GetEndpointResponse:
        return pb.GetEndpointResponse(endpoint=cast("resources_pb2.Endpoint", await self._get(ENDPOINT, request.name)))

    async def ListEndpoints(self, request: pb.ListEndpointsRequest, context: _Context) -> pb.ListEndpointsResponse:
        if request.parent:
            check("cluster", request.parent, param="parent")
        endpoints, token = await self._page(ENDPOINT, request.page_size, request.page_token, request.parent)
        return pb.ListEndpointsResponse(
            endpoints=cast("list[resources_pb2.Endpoint]", endpoints), next_page_token=token
        )

    async def UpdateEndpoint(self, request: pb.UpdateEndpointRequest, context: _Context) -> pb.UpdateEndpointResponse:
        async with self._store.write() as writer:
            return pb.UpdateEndpointResponse(endpoint=await edits.update(writer, request.endpoint, request.update_mask))

    async def DeleteEndpoint(self, request: pb.DeleteEndpointRequest, context: _Context) -> pb.DeleteEndpointResponse:
        await self._delete(ENDPOINT, request.name, request.etag)
        return pb.DeleteEndpointResponse()

    async def DrainEndpoint(self, request: pb.DrainEndpointRequest, context: _Context) -> pb.DrainEndpointResponse:
        check("endpoint", request.name)
        async with self._store.write() as writer:
            drained = await edits.drain(writer, request.name, resume=request.resume, notice=request.notice)
        return pb.DrainEndpointResponse(endpoint=drained)

    async def CreateRoute(self, request: pb.CreateRouteRequest, context: _Context) -> pb.CreateRouteResponse:
        async with self._store.write() as writer:
            return pb.CreateRouteResponse(route=await edits.create(writer, request.route))

    async def GetRoute(self, request: pb.GetRouteRequest, context: _Context) -> pb.GetRouteResponse:
        return pb.GetRouteResponse(route=cast("resources_pb2.Route", await self._get(ROUTE, request.name)))

    async def ListRoutes(self, request: pb.ListRoutesRequest, context: _Context) -> pb.ListRoutesResponse:
        routes, token = await self._page(ROUTE, request.page_size, request.page_token)
        return pb.ListRoutesResponse(routes=cast("list[resources_pb2.Route]", routes), next_page_token=token)

    async def UpdateRoute(self, request: pb.UpdateRouteRequest, context: _Context) -> pb.UpdateRouteResponse:
        async with self._store.write() as writer:
            return pb.UpdateRouteResponse(route=await edits.update(writer, request.route, request.update_mask))

    async def DeleteRoute(self, request: pb.DeleteRouteRequest, context: _Context) -> pb.DeleteRouteResponse:
        await self._delete(ROUTE, request.name, request.etag)
        return pb.DeleteRouteResponse()

    async def CreateFunction(self, request: pb.CreateFunctionRequest, context: _Context) -> pb.CreateFunctionResponse:
        async with self._store.write() as writer:
            return pb.CreateFunctionResponse(function=await edits.create(writer, request.function))

    async def GetFunction(self, request: pb.GetFunctionRequest, context: _Context) -> pb.GetFunctionResponse:
        return pb.GetFunctionResponse(function=cast("resources_pb2.Function", await self._get(FUNCTION, request.name)))

    async def ListFunctions(self, request: pb.ListFunctionsRequest, context: _Context) -> pb.ListFunctionsResponse:
        functions, token = await self._page(FUNCTION, request.page_size, request.page_token)
        return pb.ListFunctionsResponse(
            functions=cast("list[resources_pb2.Function]", functions), next_page_token=token
        )

    async def UpdateFunction(self, request: pb.UpdateFunctionRequest, context: _Context) -> pb.UpdateFunctionResponse:
        async with self._store.write() as writer:
            return pb.UpdateFunctionResponse(function=await edits.update(writer, request.function, request.update_mask))

    async def DeleteFunction(self, request: pb.DeleteFunctionRequest, context: _Context) -> pb.DeleteFunctionResponse:
        await self._delete(FUNCTION, request.name, request.etag)
        return pb.DeleteFunctionResponse()

    async def Apply(self, request: pb.ApplyRequest, context: _Context) -> pb.ApplyResponse:
        async with self._store.write(dry_run=request.dry_run) as writer:
            return pb.ApplyResponse(results=await edits.apply(writer, request))

    async def Watch(self, request: pb.WatchRequest, context: _Context) -> AsyncIterator[pb.WatchResponse]:
        async for response in self._hub.watch(request.revision):
            yield response

    async def _get(self, kind: Kind, name: str) -> Resource:
        check(kind.noun, name)
        return await self._store.get(name)

    async def _page(self, kind: Kind, size: int, token: str, parent: str = "") -> tuple[list[Resource], str]:
        size = page_size(size)
        after = from_token(token, f"{parent}/endpoints/" if parent else kind.prefix)
        resources = await self._store.list(kind, after=after, limit=size + 1, parent=parent)
        page = resources[:size]
        return page, to_token(page[-1].name) if len(resources) > size else ""

    async def _delete(self, kind: Kind, name: str, etag: str) -> None:
        check(kind.noun, name)
        async with self._store.write() as writer:
            await edits.delete(writer, name, etag)
