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
    each with its entry in `/v1/models` as JSON text. `max_calls` 0 means that it sets no bound. `serves` is the one
    principal whom it serves; empty means that it is shared.
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
    serves: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A server in its part of serving one public model. `closed` says why its endpoint takes no calls, if so."""

    server: Server
    cluster: str
    framework: str
    served_model: str
    closed: str = ""


Pinned = tuple[str, str, str]
"""A model, a cluster and a framework; the last two may be empty, which means any."""


@dataclass(frozen=True, slots=True)
class TargetIndex:
    """Targets by public model name: `by_route` what a name leads to, `by_endpoint` what endpoints serve under it
    themselves, which is what a call pinned to a cluster means.

    A name without a target is a model that exists and that no server serves at present.
    """

    by_route: Mapping[str, tuple[Target, ...]]
    by_endpoint: Mapping[Pinned, tuple[Target, ...]]

    def find(self, model: str, cluster: str, framework: str) -> tuple[Target, ...] | None:
        """The targets of a model, of one cluster and framework where those are not empty; None if the model is unknown
        there.
        """
        if not cluster and not framework:
            return self.by_route.get(model)
        return self.by_endpoint.get((model, cluster, framework))


def build_index(
    catalogue: Catalogue, servers: Iterable[Server], remembered: Mapping[str, Iterable[str]]
) -> TargetIndex:
    """Joins what exists with what is there. `remembered` are the models that workers of an endpoint, by its name,
    served before.
    """
    own: dict[Pinned, list[Target]] = {}
    for endpoint in catalogue.endpoints.values():
        for model in [binding.model for binding in endpoint.models] or remembered.get(endpoint.name, ()):
            for key in _keys(model, endpoint):
                own.setdefault(key, [])
    for server in servers:
        served_by = catalogue.endpoints.get(server.endpoint)
        if served_by is not None:
            for model, target in _targets_of(server, served_by, _closed(catalogue, served_by)):
                for key in _keys(model, served_by):
                    own.setdefault(key, []).append(target)
    by_endpoint = {key: tuple(targets) for key, targets in own.items()}
    by_route = {model: targets for (model, *pin), targets in by_endpoint.items() if pin == ["", ""]}
    by_name = dict(by_route)
    for route in catalogue.routes.values():
        by_route[route.model] = tuple(_targets_of_route(route, by_name))
    return TargetIndex(by_route, by_endpoint)


def _keys(model: str, endpoint: Endpoint) -> set[Pinned]:
    """All the ways to ask for a model so that this endpoint may answer."""
    cluster = endpoint_name(endpoint.name).cluster
    return {(model, place, framework) for place in ("", cluster) for framework in ("", endpoint.framework)}


def _targets_of(server: Server, endpoint: Endpoint, closed: str) -> Iterable[tuple[str, Target]]:
    cluster = endpoint_name(endpoint.name).cluster
    if not endpoint.models:
        for model in server.models:
            yield model, Target(server, cluster, endpoint.framework, model, closed)
    for binding in endpoint.models:
        served = binding.served_model or binding.model
        if served in server.models:
            yield binding.model, Target(server, cluster, endpoint.framework, served, closed)


def _targets_of_route(route: Route, by_name: Mapping[str, tuple[Target, ...]]) -> Iterable[Target]:
    for wanted in route.targets:
        for target in by_name.get(wanted.model or route.model, ()):
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
