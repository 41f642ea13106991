"""Where calls for a model may go: servers, and the index from public model names to them; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.core.catalogue import Availability, Catalogue, Endpoint, Route
from services.core.inference import Inference
from services.core.names import endpoint_name


@dataclass(slots=True, eq=False)
class Server:
    """Something that answers calls at present, an attached worker or an HTTP endpoint, and how busy this router makes
    it.

    `endpoint` is a resource name, `instance` the worker's own name or the URL. `models` are the names that it knows,
    each with its entry in `/v1/models` as JSON text. `max_calls` 0 means that it sets no bound.
    """

    endpoint: str
    instance: str
    inference: Inference
    models: Mapping[str, str] = field(default_factory=dict)
    ready: bool = False
    draining: bool = False
    max_calls: int = 0
    open_calls: int = 0
    outstanding_tokens: int = 0
    ended_calls: int = 0
    last_call: int = 0


@dataclass(frozen=True, slots=True)
class Target:
    """A server in its part of serving one public model. `closed` says why its endpoint takes no calls, if so."""

    server: Server
    cluster: str
    framework: str
    served_model: str
    closed: str = ""


@dataclass(frozen=True, slots=True)
class TargetIndex:
    """Targets by public model name.

    `by_route` holds what a model's name leads to; `by_endpoint` what endpoints serve under it themselves, which is what
    a call pinned to a cluster means. A name without a target is a model that exists and that no server serves at
    present.
    """

    by_route: Mapping[str, tuple[Target, ...]]
    by_endpoint: Mapping[str, tuple[Target, ...]]

    def find(self, model: str, cluster: str, framework: str) -> tuple[Target, ...] | None:
        """The targets of a model, of one cluster and framework where those are not empty; None if the model is unknown
        there.
        """
        if not cluster and not framework:
            return self.by_route.get(model)
        targets = self.by_endpoint.get(model)
        if targets is None:
            return None
        return tuple(
            target for target in targets if cluster in ("", target.cluster) and framework in ("", target.framework)
        )


def build_index(
    catalogue: Catalogue, servers: Iterable[Server], remembered: Mapping[str, Iterable[str]]
) -> TargetIndex:
    """Joins what exists with what is there. `remembered` are the models that workers of an endpoint, by its name,
    served before.
    """
    own: dict[str, list[Target]] = {}
    for endpoint in catalogue.endpoints.values():
        for binding in endpoint.models:
            own.setdefault(binding.model, [])
        if not endpoint.models:
            for model in remembered.get(endpoint.name, ()):
                own.setdefault(model, [])
    for server in servers:
        endpoint_or_none = catalogue.endpoints.get(server.endpoint)
        if endpoint_or_none is not None:
            for model, target in _targets_of(server, endpoint_or_none, _closed(catalogue, endpoint_or_none)):
                own.setdefault(model, []).append(target)
    by_endpoint = {model: tuple(targets) for model, targets in own.items()}
    by_route = dict(by_endpoint)
    for route in catalogue.routes.values():
        by_route[route.model] = tuple(_targets_of_route(route, by_endpoint))
    return TargetIndex(by_route, by_endpoint)


def _targets_of(server: Server, endpoint: Endpoint, closed: str) -> Iterable[tuple[str, Target]]:
    cluster = endpoint_name(endpoint.name).cluster
    if not endpoint.models:
        for model in server.models:
            yield model, Target(server, cluster, endpoint.framework, model, closed)
    for binding in endpoint.models:
        served = binding.served_model or binding.model
        if served in server.models:
            yield binding.model, Target(server, cluster, endpoint.framework, served, closed)


def _targets_of_route(route: Route, by_endpoint: Mapping[str, tuple[Target, ...]]) -> Iterable[Target]:
    for wanted in route.targets:
        for target in by_endpoint.get(wanted.model or route.model, ()):
            if target.server.endpoint == wanted.endpoint:
                yield target


def _closed(catalogue: Catalogue, endpoint: Endpoint) -> str:
    cluster = catalogue.clusters.get(endpoint_name(endpoint.name).parent)
    for what, resource in (("cluster", cluster), ("endpoint", endpoint)):
        if resource is not None and resource.availability is not Availability.ACTIVE:
            state = "is draining" if resource.availability is Availability.DRAINING else "is under maintenance"
            notice = f": {resource.notice}" if resource.notice else ""
            return f"The {what} '{resource.name}' {state}{notice}."
    return ""
