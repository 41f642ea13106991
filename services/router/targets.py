"""Where calls for a model may go: servers, and the index from public model names to them; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from services.core.catalogue import Availability, Catalogue, Endpoint, Route
from services.core.globus import GlobusBackend, LaunchPolicy
from services.core.inference import Inference
from services.core.names import endpoint_name

SESSION: Final = "session"
GLOBUS_TASK: Final = "globus_task"
HTTP: Final = "http"
"""What carries calls to a server."""


@dataclass(slots=True, eq=False)
class Server:
    """Something that answers calls at present, an attached worker or an HTTP endpoint, and how busy this router makes
    it.

    `endpoint` is a resource name, `instance` the worker's own name or the URL. `models` are the names that it knows,
    each with its entry in `/v1/models` as JSON text. `max_calls` 0 means that it sets no bound. `serves` is the one
    principal whom it serves; empty means that it is shared. `start` is the launcher's start that it came from, if any.
    `carrier` is what carries its calls.
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
    start: str = ""
    carrier: str = SESSION


@dataclass(frozen=True, slots=True)
class Target:
    """A server in its part of serving one public model. `closed` says why its endpoint takes no calls, if so; `audited`
    whether its calls are written to the audit log.
    """

    server: Server
    cluster: str
    framework: str
    served_model: str
    closed: str = ""
    audited: bool = False


@dataclass(frozen=True, slots=True)
class Launchable:
    """An endpoint whose workers the launcher starts when calls wait for them.

    `workers` is how many are attached here. `closed` says why the endpoint takes no calls, if so.
    """

    endpoint: str
    policy: LaunchPolicy
    workers: int = 0
    closed: str = ""

    @property
    def grows(self) -> bool:
        """Whether waiting calls may have one more worker started there."""
        if self.workers == 0:
            return True
        return self.policy.calls_per_worker > 0 and self.workers < self.policy.max_workers


Pinned = tuple[str, str, str]
"""A model, a cluster and a framework; the last two may be empty, which means any."""


class Sought(NamedTuple):
    """What a call waits for. Calls that seek the same wait in one queue. `caller` is empty for all whom no server
    serves alone; `endpoints` are those that it may use, by name, None for all that the model has.
    """

    model: str
    cluster: str
    framework: str
    caller: str
    endpoints: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class TargetIndex:
    """Targets by public model name: `by_route` what a name leads to, `by_endpoint` what endpoints serve under it
    themselves, which is what a call pinned to a cluster means. `launchable_by_route` and `launchable_by_endpoint` are
    the endpoints, in order, where workers for it can be started. `serving_by_route` and `serving_by_endpoint` are all
    the endpoints that have it, with or without a server. `served_alone` are the principals whom a server or an
    endpoint serves and nobody else, `launchables` all endpoints where workers can be started.

    A name without a target is a model that exists and that no server serves at present.
    """

    by_route: Mapping[str, tuple[Target, ...]]
    by_endpoint: Mapping[Pinned, tuple[Target, ...]]
    launchable_by_route: Mapping[str, tuple[Launchable, ...]] = field(default_factory=dict)
    launchable_by_endpoint: Mapping[Pinned, tuple[Launchable, ...]] = field(default_factory=dict)
    served_alone: frozenset[str] = frozenset()
    launchables: tuple[Launchable, ...] = ()
    serving_by_route: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)
    serving_by_endpoint: Mapping[Pinned, tuple[Endpoint, ...]] = field(default_factory=dict)

    def find(self, model: str, cluster: str, framework: str) -> tuple[Target, ...] | None:
        """The targets of a model, of one cluster and framework where those are not empty; None if the model is unknown
        there.
        """
        if not cluster and not framework:
            return self.by_route.get(model)
        return self.by_endpoint.get((model, cluster, framework))

    def serving(self, model: str, cluster: str, framework: str) -> tuple[Endpoint, ...] | None:
        """The endpoints that a model leads to, as `find` does."""
        if not cluster and not framework:
            return self.serving_by_route.get(model)
        return self.serving_by_endpoint.get((model, cluster, framework))

    def launchable(self, sought: Sought) -> tuple[Launchable, ...]:
        """The endpoints where a worker that takes the call can be started, closed ones among them."""
        if not sought.cluster and not sought.framework:
            found = self.launchable_by_route.get(sought.model, ())
        else:
            found = self.launchable_by_endpoint.get(sought[:3], ())
        return tuple(
            one
            for one in found
            if one.policy.serves in ("", sought.caller)
            and (sought.endpoints is None or one.endpoint in sought.endpoints)
        )


def build_index(
    catalogue: Catalogue, servers: Iterable[Server], remembered: Mapping[str, Iterable[str]]
) -> TargetIndex:
    """Joins what exists with what is there. `remembered` are the models that workers of an endpoint, by its name,
    served before.
    """
    servers = tuple(servers)
    own: dict[Pinned, list[Target]] = {}
    cold: dict[Pinned, list[Launchable]] = {}
    serving: dict[Pinned, list[Endpoint]] = {}
    launchables: list[Launchable] = []
    attached = Counter(server.endpoint for server in servers)
    for endpoint in catalogue.endpoints.values():
        launchable = _launchable(catalogue, endpoint, attached[endpoint.name])
        if launchable is not None:
            launchables.append(launchable)
        for model in [binding.model for binding in endpoint.models] or remembered.get(endpoint.name, ()):
            for key in _keys(model, endpoint):
                own.setdefault(key, [])
                serving.setdefault(key, []).append(endpoint)
                if launchable is not None:
                    cold.setdefault(key, []).append(launchable)
    for server in servers:
        served_by = catalogue.endpoints.get(server.endpoint)
        if served_by is not None:
            for model, target in _targets_of(server, served_by, _closed(catalogue, served_by)):
                for key in _keys(model, served_by):
                    own.setdefault(key, []).append(target)
    by_endpoint = {key: tuple(targets) for key, targets in own.items()}
    by_route = {model: targets for (model, *pin), targets in by_endpoint.items() if pin == ["", ""]}
    cold_by_endpoint = {key: tuple(launchables) for key, launchables in cold.items()}
    cold_by_route = {model: found for (model, *pin), found in cold_by_endpoint.items() if pin == ["", ""]}
    serving_by_endpoint = {key: tuple(endpoints) for key, endpoints in serving.items()}
    serving_by_route = {model: found for (model, *pin), found in serving_by_endpoint.items() if pin == ["", ""]}
    by_name, cold_by_name = dict(by_route), dict(cold_by_route)
    for route in catalogue.routes.values():
        serving_by_route[route.model] = tuple(_serving_of_route(route, catalogue))
        by_route[route.model] = tuple(_targets_of_route(route, by_name))
        cold_by_route[route.model] = tuple(_launchables_of_route(route, cold_by_name))
    alone = {server.serves for server in servers}
    alone.update(launchable.policy.serves for launchable in launchables)
    return TargetIndex(
        by_route,
        by_endpoint,
        cold_by_route,
        cold_by_endpoint,
        frozenset(alone - {""}),
        tuple(launchables),
        serving_by_route,
        serving_by_endpoint,
    )


def _keys(model: str, endpoint: Endpoint) -> set[Pinned]:
    """All the ways to ask for a model so that this endpoint may answer. An endpoint that names no framework is one of
    vLLM's.
    """
    cluster = endpoint_name(endpoint.name).cluster
    return {(model, place, framework) for place in ("", cluster) for framework in ("", endpoint.framework or "vllm")}


def _targets_of(server: Server, endpoint: Endpoint, closed: str) -> Iterable[tuple[str, Target]]:
    cluster = endpoint_name(endpoint.name).cluster
    if not endpoint.models:
        for model in server.models:
            yield model, Target(server, cluster, endpoint.framework, model, closed, endpoint.audit)
    for binding in endpoint.models:
        served = binding.served_model or binding.model
        if served in server.models:
            yield binding.model, Target(server, cluster, endpoint.framework, served, closed, endpoint.audit)


def _targets_of_route(route: Route, by_name: Mapping[str, tuple[Target, ...]]) -> Iterable[Target]:
    for wanted in route.targets:
        for target in by_name.get(wanted.model or route.model, ()):
            if target.server.endpoint == wanted.endpoint:
                yield target


def _serving_of_route(route: Route, catalogue: Catalogue) -> Iterable[Endpoint]:
    """Its targets and nothing else, whether or not they have reported the model yet."""
    for name in dict.fromkeys(wanted.endpoint for wanted in route.targets):
        if name in catalogue.endpoints:
            yield catalogue.endpoints[name]


def _launchable(catalogue: Catalogue, endpoint: Endpoint, workers: int) -> Launchable | None:
    backend = endpoint.backend
    if not isinstance(backend, GlobusBackend) or backend.launch is None:
        return None
    return Launchable(endpoint.name, backend.launch, workers, _closed(catalogue, endpoint))


def _launchables_of_route(route: Route, by_name: Mapping[str, tuple[Launchable, ...]]) -> Iterable[Launchable]:
    seen: set[str] = set()
    for wanted in route.targets:
        for launchable in by_name.get(wanted.model or route.model, ()):
            if launchable.endpoint == wanted.endpoint and launchable.endpoint not in seen:
                seen.add(launchable.endpoint)
                yield launchable


def _closed(catalogue: Catalogue, endpoint: Endpoint) -> str:
    cluster = catalogue.clusters.get(endpoint_name(endpoint.name).parent)
    for what, resource in (("cluster", cluster), ("endpoint", endpoint)):
        if resource is not None and resource.availability is not Availability.ACTIVE:
            state = "is draining" if resource.availability is Availability.DRAINING else "is under maintenance"
            notice = f": {resource.notice}" if resource.notice else ""
            return f"The {what} '{resource.name}' {state}{notice}."
    return ""
