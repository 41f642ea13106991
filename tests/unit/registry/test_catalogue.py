"""The catalogue: what applying changes makes of it, and its way to the protos and back."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from weft.registry.v1 import registry_pb2, resources_pb2

from services.core.catalogue import (
    AccessPolicy,
    Availability,
    Catalogue,
    Change,
    Cluster,
    Deleted,
    Endpoint,
    GlobusBackend,
    GlobusFunction,
    HttpBackend,
    ModelBinding,
    Route,
    RouteTarget,
    SessionBackend,
)
from services.core.quota import Limits, Quota
from services.rpc.resources import (
    catalogue_from_proto,
    catalogue_to_proto,
    changes_from_proto,
    cluster_from_proto,
    endpoint_from_proto,
)

TEXT = st.text(max_size=5)
WORDS = st.lists(TEXT, max_size=2).map(tuple)
LABELS = st.dictionaries(TEXT, TEXT, max_size=2)
FUNCTIONS = st.builds(GlobusFunction, TEXT, TEXT)
MODELS = st.sampled_from(["a", "b", "c"])
STATES = st.sampled_from(Availability)
TIMEOUTS = st.none() | st.integers(1, 10**7).map(lambda milliseconds: milliseconds / 1000)
BACKENDS = st.one_of(
    st.builds(SessionBackend),
    st.builds(HttpBackend, TEXT, TEXT, TEXT, TIMEOUTS),
    st.builds(GlobusBackend, FUNCTIONS, st.none() | FUNCTIONS, st.integers(0, 65_535)),
)
CLUSTER_NAMES = st.sampled_from(["clusters/a", "clusters/b"])
ENDPOINT_NAMES = st.builds(lambda cluster, id: f"{cluster}/endpoints/{id}", CLUSTER_NAMES, st.sampled_from("xyz"))
ROUTE_NAMES = MODELS.map(lambda model: f"routes/{model}")
ACCESS = st.builds(AccessPolicy, WORDS, WORDS, WORDS, WORDS, WORDS, TIMEOUTS, st.booleans())
COUNTS = st.integers(0, 2**32 - 1)
QUOTAS = st.builds(Quota, st.floats(0, 1e6), COUNTS, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
LIMITS = st.builds(Limits, QUOTAS, QUOTAS)
CLUSTERS = st.builds(
    Cluster, CLUSTER_NAMES, TEXT, STATES, TEXT, WORDS, WORDS, st.none() | FUNCTIONS, TEXT, LABELS, ACCESS, LIMITS
)
ENDPOINTS = st.builds(
    Endpoint,
    ENDPOINT_NAMES,
    BACKENDS,
    TEXT,
    STATES,
    TEXT,
    TEXT,
    st.lists(st.builds(ModelBinding, MODELS, TEXT), max_size=3).map(tuple),
    ACCESS,
    LIMITS,
    LABELS,
)
# A model has one route, as the registry sees to.
ROUTES = st.builds(
    lambda model, targets, texts, labels, *who: Route(f"routes/{model}", model, targets, *texts, labels, *who),
    MODELS,
    st.lists(st.builds(RouteTarget, ENDPOINT_NAMES, TEXT), max_size=2).map(tuple),
    st.tuples(TEXT, TEXT),
    LABELS,
    ACCESS,
    LIMITS,
)
DELETIONS = st.builds(Deleted, st.one_of(CLUSTER_NAMES, ENDPOINT_NAMES, ROUTE_NAMES))
CHANGES = st.lists(st.one_of(CLUSTERS, ENDPOINTS, ROUTES, DELETIONS), max_size=12)


def everything(catalogue: Catalogue) -> dict[str, Change]:
    return {**catalogue.clusters, **catalogue.endpoints, **catalogue.routes}


def replay(changes: Iterable[Change]) -> dict[str, Change]:
    found: dict[str, Change] = {}
    for change in changes:
        found.pop(change.name, None)
        if not isinstance(change, Deleted):
            found[change.name] = change
    return found


@given(CHANGES, CHANGES)
def test_apply_is_the_last_word_on_each_name(first: list[Change], second: list[Change]) -> None:
    before = Catalogue().apply(first)
    kept = everything(before)
    after = before.apply(second)
    assert everything(after) == replay([*first, *second])
    assert everything(before) == kept
    assert after == Catalogue().apply([*first, *second])


@given(CHANGES)
def test_indexes_say_what_the_resources_say(changes: list[Change]) -> None:
    catalogue = Catalogue().apply(changes)
    assert dict(catalogue.routes_by_model) == {route.model: route for route in catalogue.routes.values()}
    ordered = [catalogue.endpoints[name] for name in sorted(catalogue.endpoints)]
    for model in "abc":
        serving = tuple(e for e in ordered if model in [binding.model for binding in e.models])
        assert catalogue.endpoints_by_model.get(model, ()) == serving
    assert catalogue.open_endpoints == tuple(
        endpoint for endpoint in ordered if not endpoint.models and isinstance(endpoint.backend, SessionBackend)
    )


@given(CHANGES)
def test_to_the_protos_and_back(changes: list[Change]) -> None:
    catalogue = Catalogue().apply(changes)
    sent = registry_pb2.Catalogue.FromString(catalogue_to_proto(catalogue).SerializeToString())
    assert catalogue_from_proto(sent) == catalogue


def test_a_model_by_the_name_of_its_server() -> None:
    endpoint = Endpoint(
        "clusters/a/endpoints/x", SessionBackend(), models=(ModelBinding("public", "served"), ModelBinding("same"))
    )
    assert [endpoint.served_model(model) for model in ("public", "same", "other")] == ["served", "same", "other"]
    assert endpoint.cluster == "clusters/a"


def test_an_endpoint_of_a_kind_from_the_future_is_left_out_and_replaces_what_was() -> None:
    name = "clusters/a/endpoints/x"
    known = Catalogue.of([Endpoint(name, SessionBackend())])
    unknown = registry_pb2.Change(endpoint=resources_pb2.Endpoint(name=name))
    assert known.apply(changes_from_proto([unknown, registry_pb2.Change()])).endpoints == {}


def test_states_that_are_absent_or_from_the_future() -> None:
    assert cluster_from_proto(resources_pb2.Cluster(name="clusters/a")).availability is Availability.ACTIVE
    future = resources_pb2.Cluster.FromString(b"\x18\x63")
    assert cluster_from_proto(future).availability is Availability.MAINTENANCE
    session = resources_pb2.Endpoint(name="clusters/a/endpoints/x", session=resources_pb2.SessionBackend())
    assert endpoint_from_proto(session).availability is Availability.ACTIVE
