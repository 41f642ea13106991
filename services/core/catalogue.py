"""What exists, as the registry tells it: clusters, endpoints, routes and functions, and the snapshot of them all that
planning reads.

Names and meanings are those of `protos/weft/registry/v1/resources.proto`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.core.globus import Function, GlobusBackend, GlobusFunction
from services.core.quota import Limits


class Availability(enum.Enum):
    """Whether a cluster or an endpoint takes new calls; by the names and numbers of the proto."""

    ACTIVE = 1
    DRAINING = 2
    MAINTENANCE = 3


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Who may use something. All conditions must hold, one of the values of each is enough, an empty one is no
    condition; see `weft.registry.v1.AccessPolicy`. Those whom `allowed_principals` names need meet none of the first
    three; where it stands without these, it is for nobody else. `max_session_age` is in seconds, None for no condition.
    """

    allowed_globus_groups: tuple[str, ...] = ()
    allowed_domains: tuple[str, ...] = ()
    allowed_identity_providers: tuple[str, ...] = ()
    allowed_principals: tuple[str, ...] = ()
    authentication_policies: tuple[str, ...] = ()
    max_session_age: float | None = None
    require_mfa: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """A site. `operations` are as in FIRST's URLs (`chat/completions`); empty means all."""

    name: str
    display_name: str = ""
    availability: Availability = Availability.ACTIVE
    notice: str = ""
    frameworks: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    queue_status: GlobusFunction | None = None
    status_url: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    access: AccessPolicy = AccessPolicy()
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class ModelBinding:
    """A model at an endpoint: its public name there, and the name that the server behind it knows it by, if another."""

    model: str
    served_model: str = ""


@dataclass(frozen=True, slots=True)
class SessionBackend:
    """Workers that dial in."""


@dataclass(frozen=True, slots=True)
class HttpBackend:
    """An OpenAI-compatible base URL, before `/v1`. The key comes from a file or a variable of the router; `timeout`
    is in seconds, and None leaves it to the router.
    """

    url: str
    api_key_file: str = ""
    api_key_env: str = ""
    timeout: float | None = None


Backend = SessionBackend | HttpBackend | GlobusBackend


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Something that can serve one or more models. With a session backend, no models means whatever its workers
    report. `audit` has each call there written to the routers' audit log.
    """

    name: str
    backend: Backend
    display_name: str = ""
    availability: Availability = Availability.ACTIVE
    notice: str = ""
    framework: str = ""
    models: tuple[ModelBinding, ...] = ()
    access: AccessPolicy = AccessPolicy()
    limits: Limits = Limits()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    audit: bool = False

    @property
    def cluster(self) -> str:
        """The resource name of its cluster."""
        return self.name.partition("/endpoints/")[0]

    def served_model(self, model: str) -> str:
        """The name that the server behind it knows a model by."""
        for binding in self.models:
            if binding.model == model:
                return binding.served_model or model
        return model


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """An endpoint that may serve a route; an empty `model` means the route's own."""

    endpoint: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """The public name of a model, and where its calls may go."""

    name: str
    model: str
    targets: tuple[RouteTarget, ...] = ()
    display_name: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    access: AccessPolicy = AccessPolicy()
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Deleted:
    """The name of a resource that is gone."""

    name: str


Resource = Cluster | Endpoint | Route | Function
Change = Resource | Deleted


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All that exists at one moment, by resource name, with the indexes by which planning finds a model at once.

    `endpoints_by_model` holds the endpoints that list the model themselves, `open_endpoints` those of workers that
    serve whatever the workers report; both in the order of names.
    """

    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=dict)
    routes_by_model: Mapping[str, Route] = field(init=False, compare=False, repr=False)
    endpoints_by_model: Mapping[str, tuple[Endpoint, ...]] = field(init=False, compare=False, repr=False)
    open_endpoints: tuple[Endpoint, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Builds the indexes. Called by the dataclass."""
        ordered = [self.endpoints[name] for name in sorted(self.endpoints)]
        by_model: dict[str, tuple[Endpoint, ...]] = {}
        for endpoint in ordered:
            for model in dict.fromkeys(binding.model for binding in endpoint.models):
                by_model[model] = (*by_model.get(model, ()), endpoint)
        is_open = (endpoint for endpoint in ordered if isinstance(endpoint.backend, SessionBackend))
        object.__setattr__(self, "routes_by_model", {route.model: route for route in self.routes.values()})
        object.__setattr__(self, "endpoints_by_model", by_model)
        object.__setattr__(self, "open_endpoints", tuple(endpoint for endpoint in is_open if not endpoint.models))

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> Catalogue:
        """The catalogue of these resources alone."""
        return cls().apply(resources)

    def apply(self, changes: Iterable[Change]) -> Catalogue:
        """The catalogue after these changes, in order. Deleting what does not exist changes nothing."""
        clusters, endpoints = dict(self.clusters), dict(self.endpoints)
        routes, functions = dict(self.routes), dict(self.functions)
        for change in changes:
            match change:
                case Cluster():
                    clusters[change.name] = change
                case Endpoint():
                    endpoints[change.name] = change
                case Route():
                    routes[change.name] = change
                case Function():
                    functions[change.name] = change
                case Deleted(name):
                    for kind in (clusters, endpoints, routes, functions):
                        kind.pop(name, None)
        return Catalogue(clusters, endpoints, routes, functions)
