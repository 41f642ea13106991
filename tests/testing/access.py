"""Strategies for policies, principals and catalogues in which conditions meet, fail, and lie next to each other."""

from __future__ import annotations

import dataclasses
from typing import Final

from hypothesis import strategies as st

from services.core.access import Ask
from services.core.catalogue import (
    AccessPolicy,
    Availability,
    Catalogue,
    Cluster,
    Endpoint,
    ModelBinding,
    Resource,
    Route,
    RouteTarget,
    SessionBackend,
)
from services.core.globus import GlobusBackend, GlobusFunction, LaunchPolicy
from services.core.principal import CredentialKind, Identity, Permissions, Principal

NAMES: Final = ("users/alice", "users/bob", "services/portal")
GROUPS: Final = ("g1", "g2", "")
DOMAINS: Final = ("anl.gov", "cs.anl.gov", "*.anl.gov", "ANL.gov", "")
PROVIDERS: Final = ("p1", "p2", "")
MODELS: Final = ("m", "n")
CLUSTERS: Final = ("a", "b")
OPERATIONS: Final = ("/v1/chat/completions", "/v1/embeddings", "/tokenize", "")
TIMES = st.sampled_from([0.0, 50.0, 100.0, 150.0])


def _some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


POLICIES = st.builds(
    AccessPolicy,
    _some(GROUPS),
    _some(DOMAINS),
    _some(PROVIDERS),
    _some((*NAMES, "users/*")),
    _some(("q1", "q2")),
    st.none() | st.sampled_from([0.0, 10.0, 60.0, 120.0]),
    st.booleans(),
)
_ONE_CONDITION = st.one_of(
    st.builds(AccessPolicy, allowed_globus_groups=_some(GROUPS)),
    st.builds(AccessPolicy, allowed_domains=_some(DOMAINS)),
    st.builds(AccessPolicy, allowed_principals=_some(NAMES)),
    st.builds(AccessPolicy, max_session_age=st.sampled_from([60.0, 120.0])),
    st.builds(AccessPolicy, require_mfa=st.booleans()),
)
LENIENT = st.one_of(st.just(AccessPolicy()), _ONE_CONDITION, POLICIES)
IDENTITIES = st.builds(
    Identity,
    kind=st.sampled_from(CredentialKind),
    domain=st.sampled_from([*DOMAINS, "evilanl.gov", ".anl.gov", "\u212eanl.gov"]),
    identity_provider=st.sampled_from(PROVIDERS),
    groups=st.frozensets(st.sampled_from(GROUPS)),
    authenticated_at=st.none() | TIMES,
    mfa=st.booleans(),
    authentication_policies=st.frozensets(st.sampled_from(["q1", "q2"])),
    service_account=st.booleans(),
)
PRINCIPALS = st.builds(
    Principal,
    st.sampled_from(NAMES),
    permissions=st.builds(
        Permissions,
        st.sampled_from([("*",), ("*",), ("*",), ("m",), ()]),
        st.sampled_from([(), (), (), ("n",)]),
        st.just(()),
        st.sampled_from([(), (), (), ("chat/*",), ("/tokenize",)]),
    ),
    identity=IDENTITIES,
)
ASKS = st.builds(
    Ask,
    st.sampled_from(["/v1/chat/completions", *OPERATIONS]),
    st.sampled_from(["m", "m", *MODELS, "unknown"]),
    st.sampled_from(["", "", "", *CLUSTERS, "none"]),
    st.sampled_from(["", "", "", "vllm", "api"]),
)
_CLUSTERS = st.builds(
    Cluster,
    st.sampled_from(CLUSTERS).map(lambda id: f"clusters/{id}"),
    availability=st.sampled_from(Availability),
    frameworks=st.sampled_from([(), ("vllm",)]),
    operations=st.sampled_from([(), (), ("chat/completions",)]),
    access=LENIENT,
)
_BACKENDS = st.just(SessionBackend()) | st.builds(
    lambda serves: GlobusBackend(launch=LaunchPolicy(GlobusFunction("e"), serves=serves)),
    st.sampled_from(["", "users/alice"]),
)
_ENDPOINTS = st.builds(
    Endpoint,
    st.builds(
        lambda cluster, id: f"clusters/{cluster}/endpoints/{id}", st.sampled_from(CLUSTERS), st.sampled_from("xyz")
    ),
    _BACKENDS,
    framework=st.sampled_from(["", "vllm", "api"]),
    models=st.lists(st.builds(ModelBinding, st.sampled_from(MODELS)), min_size=1, max_size=2).map(tuple),
    access=LENIENT,
)


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    """Some clusters, endpoints in them or in none that is known, and a route or two."""
    endpoints = draw(st.lists(_ENDPOINTS, min_size=1, max_size=4))
    resources: list[Resource] = [*draw(st.lists(_CLUSTERS, max_size=4)), *endpoints]
    names = [*sorted({one.name for one in resources if isinstance(one, Endpoint)}), "clusters/a/endpoints/gone"]
    for model in draw(st.lists(st.sampled_from(MODELS), max_size=2, unique=True)):
        targets = draw(st.lists(st.builds(RouteTarget, st.sampled_from(names)), max_size=3))
        resources.append(Route(f"routes/{model}", model, tuple(targets), access=draw(LENIENT)))
    return Catalogue.of(resources)


def stricter(policy: AccessPolicy) -> st.SearchStrategy[AccessPolicy]:
    """The policy with a condition more, one that it had made narrower, or one of its exemptions gone."""
    changes: list[dict[str, object]] = [
        {"require_mfa": True},
        {"authentication_policies": (*policy.authentication_policies, "q3")},
        {"max_session_age": min(10.0, policy.max_session_age if policy.max_session_age is not None else 10.0)},
    ]
    for field, values in (
        ("allowed_globus_groups", GROUPS),
        ("allowed_domains", DOMAINS),
        ("allowed_identity_providers", PROVIDERS),
    ):
        present = getattr(policy, field)
        if not present:
            changes += [{field: (value,)} for value in values]
        changes += [{field: tuple(one for one in present if one != gone)} for gone in present if len(present) > 1]
    if len(policy.allowed_principals) > 1:
        changes.append({"allowed_principals": policy.allowed_principals[1:]})
    return st.sampled_from(changes).map(lambda change: dataclasses.replace(policy, **change))  # type: ignore[arg-type]
