"""The catalogue's resources, between `weft.registry.v1` and the domain.

The domain leaves out what only an administrator wants: etags and times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from weft.registry.v1 import registry_pb2, resources_pb2

from services.core.catalogue import (
    Availability,
    Backend,
    Catalogue,
    Change,
    Cluster,
    Deleted,
    Endpoint,
    HttpBackend,
    ModelBinding,
    Resource,
    Route,
    RouteTarget,
    SessionBackend,
)
from services.core.globus import Function, GlobusBackend
from services.rpc.access import access_from_proto, access_to_proto, limits_from_proto, limits_to_proto
from services.rpc.globus import (
    function_from_proto,
    function_to_proto,
    globus_backend_from_proto,
    globus_backend_to_proto,
    globus_function_from_proto,
    globus_function_to_proto,
)

log = logging.getLogger(__name__)


def cluster_to_proto(cluster: Cluster) -> resources_pb2.Cluster:
    """The cluster as the registry speaks of it."""
    return resources_pb2.Cluster(
        name=cluster.name,
        display_name=cluster.display_name,
        availability=resources_pb2.Availability.ValueType(cluster.availability.value),
        notice=cluster.notice,
        frameworks=cluster.frameworks,
        operations=cluster.operations,
        queue_status=globus_function_to_proto(cluster.queue_status),
        status_url=cluster.status_url,
        labels=cluster.labels,
        access=access_to_proto(cluster.access),
        limits=limits_to_proto(cluster.limits),
    )


def cluster_from_proto(proto: resources_pb2.Cluster) -> Cluster:
    """The cluster that the registry spoke of."""
    return Cluster(
        name=proto.name,
        display_name=proto.display_name,
        availability=_availability(proto.availability),
        notice=proto.notice,
        frameworks=tuple(proto.frameworks),
        operations=tuple(proto.operations),
        queue_status=globus_function_from_proto(proto.queue_status) if proto.HasField("queue_status") else None,
        status_url=proto.status_url,
        labels=dict(proto.labels),
        access=access_from_proto(proto.access),
        limits=limits_from_proto(proto.limits),
    )


def endpoint_to_proto(endpoint: Endpoint) -> resources_pb2.Endpoint:
    """The endpoint as the registry speaks of it."""
    proto = resources_pb2.Endpoint(
        name=endpoint.name,
        display_name=endpoint.display_name,
        availability=resources_pb2.Availability.ValueType(endpoint.availability.value),
        notice=endpoint.notice,
        framework=endpoint.framework,
        models=[resources_pb2.ModelBinding(model=m.model, served_model=m.served_model) for m in endpoint.models],
        access=access_to_proto(endpoint.access),
        limits=limits_to_proto(endpoint.limits),
        labels=endpoint.labels,
        audit=endpoint.audit,
    )
    _put_backend(proto, endpoint.backend)
    return proto


def endpoint_from_proto(proto: resources_pb2.Endpoint) -> Endpoint:
    """The endpoint that the registry spoke of. Raises ValueError for a kind of backend that we do not know."""
    return Endpoint(
        name=proto.name,
        backend=_backend(proto),
        display_name=proto.display_name,
        availability=_availability(proto.availability),
        notice=proto.notice,
        framework=proto.framework,
        models=tuple(ModelBinding(binding.model, binding.served_model) for binding in proto.models),
        access=access_from_proto(proto.access),
        limits=limits_from_proto(proto.limits),
        labels=dict(proto.labels),
        audit=proto.audit,
    )


def route_to_proto(route: Route) -> resources_pb2.Route:
    """The route as the registry speaks of it."""
    return resources_pb2.Route(
        name=route.name,
        model=route.model,
        display_name=route.display_name,
        description=route.description,
        targets=[resources_pb2.RouteTarget(endpoint=t.endpoint, model=t.model) for t in route.targets],
        labels=route.labels,
        access=access_to_proto(route.access),
        limits=limits_to_proto(route.limits),
    )


def route_from_proto(proto: resources_pb2.Route) -> Route:
    """The route that the registry spoke of."""
    return Route(
        name=proto.name,
        model=proto.model,
        targets=tuple(RouteTarget(target.endpoint, target.model) for target in proto.targets),
        display_name=proto.display_name,
        description=proto.description,
        labels=dict(proto.labels),
        access=access_from_proto(proto.access),
        limits=limits_from_proto(proto.limits),
    )


def resource_to_proto(
    resource: Resource,
) -> resources_pb2.Cluster | resources_pb2.Endpoint | resources_pb2.Route | resources_pb2.Function:
    """Any of them as the registry speaks of it."""
    match resource:
        case Cluster():
            return cluster_to_proto(resource)
        case Endpoint():
            return endpoint_to_proto(resource)
        case Route():
            return route_to_proto(resource)
        case Function():
            return function_to_proto(resource)


def catalogue_to_proto(catalogue: Catalogue) -> registry_pb2.Catalogue:
    """The catalogue as the registry speaks of it."""
    return registry_pb2.Catalogue(
        clusters=map(cluster_to_proto, catalogue.clusters.values()),
        endpoints=map(endpoint_to_proto, catalogue.endpoints.values()),
        routes=map(route_to_proto, catalogue.routes.values()),
        functions=map(function_to_proto, catalogue.functions.values()),
    )


def catalogue_from_proto(proto: registry_pb2.Catalogue) -> Catalogue:
    """The catalogue that the registry spoke of, without endpoints of a kind that we do not know."""
    changes = [
        *(registry_pb2.Change(cluster=cluster) for cluster in proto.clusters),
        *(registry_pb2.Change(endpoint=endpoint) for endpoint in proto.endpoints),
        *(registry_pb2.Change(route=route) for route in proto.routes),
        *(registry_pb2.Change(function=function) for function in proto.functions),
    ]
    return Catalogue().apply(changes_from_proto(changes))


def changes_from_proto(protos: Iterable[registry_pb2.Change]) -> Iterator[Change]:
    """The changes that the registry told, without those of a kind that we do not know, from a newer registry."""
    for proto in protos:
        match proto.WhichOneof("kind"):
            case "cluster":
                yield cluster_from_proto(proto.cluster)
            case "route":
                yield route_from_proto(proto.route)
            case "function":
                yield function_from_proto(proto.function)
            case "deleted":
                yield Deleted(proto.deleted)
            case "endpoint":
                try:
                    yield endpoint_from_proto(proto.endpoint)
                except ValueError as error:
                    log.warning("left out an endpoint: %s", error)
                    yield Deleted(proto.endpoint.name)


def _availability(proto: int) -> Availability:
    if proto == resources_pb2.AVAILABILITY_UNSPECIFIED:
        return Availability.ACTIVE
    try:
        return Availability(proto)
    except ValueError:
        # A state that a newer registry has: whatever it is, it is not plainly active.
        return Availability.MAINTENANCE


def _backend(proto: resources_pb2.Endpoint) -> Backend:
    match proto.WhichOneof("backend"):
        case "session":
            return SessionBackend()
        case "http":
            http = proto.http
            timeout = http.timeout.ToNanoseconds() / 1e9 if http.HasField("timeout") else None
            return HttpBackend(http.url, http.api_key_file, http.api_key_env, timeout)
        case "globus":
            return globus_backend_from_proto(proto.globus)
    raise ValueError(f"{proto.name!r} has a kind of backend that is not known here")


def _put_backend(proto: resources_pb2.Endpoint, backend: Backend) -> None:
    match backend:
        case SessionBackend():
            proto.session.SetInParent()
        case HttpBackend():
            proto.http.url = backend.url
            proto.http.api_key_file = backend.api_key_file
            proto.http.api_key_env = backend.api_key_env
            if backend.timeout is not None:
                proto.http.timeout.FromNanoseconds(round(backend.timeout * 1e9))
        case GlobusBackend():
            proto.globus.CopyFrom(globus_backend_to_proto(backend))
