"""Who may use what: each condition, what closes fail with, and what must hold of every policy and every caller."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.access import Ask, Decision, MeshPolicy, Step, admit, decide, judge, open_to_all, quotas_of, roles_of
from services.core.catalogue import (
    AccessPolicy,
    Availability,
    Catalogue,
    Cluster,
    Endpoint,
    ModelBinding,
    Route,
    RouteTarget,
    SessionBackend,
)
from services.core.errors import Reason
from services.core.globus import GlobusBackend, GlobusFunction, LaunchPolicy
from services.core.principal import CredentialKind, Identity, Permissions, Principal, Role
from services.core.quota import Quota, QuotaRule
from tests.testing.access import ASKS, LENIENT, POLICIES, PRINCIPALS, TIMES, catalogues, stricter

CHAT = "/v1/chat/completions"
NOW = 1_000.0


def person(**identity: Any) -> Principal:
    known: dict[str, Any] = {"kind": CredentialKind.GLOBUS, "domain": "anl.gov", "identity_provider": "p"}
    return Principal("users/alice", permissions=Permissions(("*",)), identity=Identity(**{**known, **identity}))


def refusal(policy: AccessPolicy, principal: Principal, now: float = NOW) -> Reason | None:
    return judge(policy, principal, now).reason


def serving(catalogue: Catalogue, ask: Ask) -> tuple[Endpoint, ...] | None:
    """The endpoints that a model leads to, as a router without workers has them."""
    route = catalogue.routes_by_model.get(ask.model)
    if route is not None and not ask.cluster and not ask.framework:
        names = [target.endpoint for target in route.targets]
        return tuple(catalogue.endpoints[name] for name in dict.fromkeys(names) if name in catalogue.endpoints)
    found = tuple(
        endpoint
        for endpoint in catalogue.endpoints_by_model.get(ask.model, ())
        if ask.cluster in ("", endpoint.cluster.removeprefix("clusters/"))
        and ask.framework in ("", endpoint.framework or "vllm")
    )
    return found or None


def decided(principal: Principal, ask: Ask, catalogue: Catalogue, now: float) -> Decision:
    return decide(principal, ask, catalogue, serving(catalogue, ask), now)


# One policy


@pytest.mark.parametrize(
    ("allowed", "domain", "may"),
    [
        (("anl.gov",), "anl.gov", True),
        (("anl.gov",), "ANL.GOV", True),
        (("ANL.gov",), "anl.gov", True),
        (("anl.gov",), "cs.anl.gov", False),
        (("anl.gov",), "evilanl.gov", False),
        (("anl.gov",), "anl.gov.evil.org", False),
        (("anl.gov",), "anl.gov.", False),
        (("anl.gov",), "", False),
        (("*.anl.gov",), "cs.anl.gov", True),
        (("*.anl.gov",), "a.b.anl.gov", True),
        (("*.anl.gov",), "anl.gov", False),
        (("*.anl.gov",), ".anl.gov", False),
        (("*.anl.gov",), "evilanl.gov", False),
        (("*",), "anl.gov", False),
        (("*.",), "anl.", False),
        (("",), "", False),
        (("kit.edu",), "\u212ait.edu", False),  # the Kelvin sign, which becomes a 'k' when it is made small
        (("xn--bcher-kva.example",), "xn--bcher-kva.example", True),
        (("xn--bcher-kva.example",), "bücher.example", False),
    ],
)
def test_domains(allowed: tuple[str, ...], domain: str, may: bool) -> None:
    assert (refusal(AccessPolicy(allowed_domains=allowed), person(domain=domain)) is None) is may


@pytest.mark.parametrize(
    ("allowed", "groups", "may"),
    [(("g", "h"), {"h"}, True), (("g",), {"G"}, False), (("g",), set(), False), (("",), {""}, False)],
)
def test_groups(allowed: tuple[str, ...], groups: set[str], may: bool) -> None:
    policy = AccessPolicy(allowed_globus_groups=allowed)
    assert (refusal(policy, person(groups=frozenset(groups))) is None) is may


def test_providers() -> None:
    policy = AccessPolicy(allowed_identity_providers=("p", ""))
    assert refusal(policy, person()) is None
    assert refusal(policy, person(identity_provider="q")) is Reason.MODEL_FORBIDDEN
    assert refusal(policy, person(identity_provider="")) is Reason.MODEL_FORBIDDEN


def test_who_is_named_needs_no_group_but_a_session_like_everybody() -> None:
    policy = AccessPolicy(("g",), ("d.org",), ("q",), allowed_principals=("users/alice",), require_mfa=True)
    assert refusal(policy, person(mfa=True)) is None
    assert refusal(policy, person()) is Reason.SESSION_INSUFFICIENT
    assert refusal(policy, dataclasses.replace(person(mfa=True), name="users/bob")) is Reason.MODEL_FORBIDDEN


def test_names_alone_are_for_nobody_else() -> None:
    policy = AccessPolicy(allowed_principals=("services/*",))
    assert refusal(policy, person()) is Reason.MODEL_FORBIDDEN
    assert refusal(policy, dataclasses.replace(person(), name="services/portal")) is None


@pytest.mark.parametrize(
    ("at", "age", "now", "may"),
    [
        (NOW - 59, 60.0, NOW, True),
        (NOW - 60, 60.0, NOW, False),
        (None, 60.0, NOW, False),
        (NOW, 0.0, NOW, False),
        (NOW, math.nan, NOW, False),
        (math.nan, 60.0, NOW, False),
        (NOW, 60.0, math.nan, False),
        (NOW, math.inf, NOW, True),
    ],
)
def test_the_age_of_a_session(at: float | None, age: float, now: float, may: bool) -> None:
    verdict = judge(AccessPolicy(max_session_age=age), person(authenticated_at=at), now)
    assert verdict.reason is (None if may else Reason.SESSION_INSUFFICIENT)
    if at is not None and may:
        assert verdict.until == at + age, "then it is decided anew"


def test_a_key_has_no_login_and_is_refused_where_one_is_asked_for() -> None:
    key = person(kind=CredentialKind.KEY)
    for policy in (
        AccessPolicy(max_session_age=1e9),
        AccessPolicy(require_mfa=True),
        AccessPolicy(authentication_policies=("q",)),
    ):
        assert refusal(policy, key) is Reason.SESSION_INSUFFICIENT


def test_an_administrator_is_judged_like_anybody() -> None:
    admin = dataclasses.replace(person(), roles=frozenset({Role.ADMIN, Role.USER, Role.SERVICE}))
    assert refusal(AccessPolicy(("g",)), admin) is Reason.MODEL_FORBIDDEN


@given(POLICIES, PRINCIPALS, TIMES, st.data())
def test_a_condition_more_never_admits_more(
    policy: AccessPolicy, principal: Principal, now: float, data: st.DataObject
) -> None:
    narrow = data.draw(stricter(policy))
    # Where names stood alone they were for nobody else; a group beside them makes them exemptions from it.
    if policy.allowed_principals and not (
        policy.allowed_globus_groups or policy.allowed_domains or policy.allowed_identity_providers
    ):
        narrow = dataclasses.replace(policy, require_mfa=True)
    if judge(narrow, principal, now).reason is None:
        wide = judge(policy, principal, now)
        assert wide.reason is None
        assert wide.until >= judge(narrow, principal, now).until


@given(POLICIES, PRINCIPALS, TIMES)
def test_a_verdict_holds_until_it_says(policy: AccessPolicy, principal: Principal, now: float) -> None:
    verdict = judge(policy, principal, now)
    if verdict.reason is None:
        assert verdict.until > now
        if verdict.until < math.inf:
            assert judge(policy, principal, math.nextafter(verdict.until, 0)).reason is None
            assert judge(policy, principal, verdict.until).reason is Reason.SESSION_INSUFFICIENT
    else:
        assert judge(policy, principal, now + 1e6).reason is verdict.reason, "time alone lets nobody in"


# Calls


@given(PRINCIPALS, ASKS, catalogues(), TIMES)
def test_a_decision_is_pure_and_tells_why(principal: Principal, ask: Ask, catalogue: Catalogue, now: float) -> None:
    decision = decided(principal, ask, catalogue, now)
    again = decided(principal, ask, catalogue, now)
    assert (decision.steps, decision.endpoints, decision.until) == (again.steps, again.endpoints, again.until)
    assert (decision.error and decision.error.reason) == (again.error and again.error.reason)
    assert all(step.subject and step.why for step in decision.steps)
    if decision.error is not None:
        assert not decision.endpoints
        assert any(not step.admitted for step in decision.steps), "no refusal without a step that says why"
    else:
        assert decision.until > now


@given(PRINCIPALS, ASKS, catalogues(), TIMES)
def test_whatever_is_permitted_is_admitted_by_all_who_have_a_say(
    principal: Principal, ask: Ask, catalogue: Catalogue, now: float
) -> None:
    decision = decided(principal, ask, catalogue, now)
    leads_to = {endpoint.name for endpoint in serving(catalogue, ask) or ()}
    assert decision.endpoints <= leads_to
    route = catalogue.routes_by_model.get(ask.model)
    for name in decision.endpoints:
        endpoint = catalogue.endpoints[name]
        policies = [endpoint.access, catalogue.clusters[endpoint.cluster].access]
        policies += [route.access] if route else []
        verdicts = [judge(policy, principal, now) for policy in policies]
        assert [verdict.reason for verdict in verdicts] == [None] * len(policies)
        assert decision.until <= min(verdict.until for verdict in verdicts)
        if isinstance(endpoint.backend, GlobusBackend) and endpoint.backend.launch is not None:
            assert endpoint.backend.launch.serves in ("", principal.name)


@given(PRINCIPALS, ASKS, catalogues(), TIMES, st.data())
def test_a_stricter_catalogue_permits_no_more(
    principal: Principal, ask: Ask, catalogue: Catalogue, now: float, data: st.DataObject
) -> None:
    before = decided(principal, ask, catalogue, now)
    kinds: list[Cluster | Endpoint | Route] = [
        *catalogue.clusters.values(),
        *catalogue.endpoints.values(),
        *catalogue.routes.values(),
    ]
    if not kinds:
        return
    one = data.draw(st.sampled_from(kinds))
    if one.access.allowed_principals:
        one = dataclasses.replace(one, access=dataclasses.replace(one.access, require_mfa=True))
    else:
        one = dataclasses.replace(one, access=data.draw(stricter(one.access)))
    after = decided(principal, ask, catalogue.apply([one]), now)
    assert after.endpoints <= before.endpoints
    if before.error is not None:
        assert after.error is not None


@given(PRINCIPALS, ASKS, catalogues(), TIMES)
def test_what_may_be_called_may_be_seen(principal: Principal, ask: Ask, catalogue: Catalogue, now: float) -> None:
    called = decided(principal, ask, catalogue, now)
    seen = decided(principal, ask._replace(operation=""), catalogue, now)
    assert called.endpoints <= seen.endpoints
    if called.error is None:
        assert seen.error is None


SITE = Cluster("clusters/one", frameworks=("vllm",), operations=("chat/completions",))
HERE = Endpoint("clusters/one/endpoints/e", SessionBackend(), models=(ModelBinding("m"),))


@pytest.mark.parametrize(
    ("ask", "cluster", "caller", "reason"),
    [
        (Ask("/v1/other", "no", "one", "tgi"), {"availability": Availability.MAINTENANCE}, (), "CLUSTER_MAINTENANCE"),
        (Ask("/v1/other", "no", "one", "tgi"), {}, (), "FRAMEWORK_UNSUPPORTED"),
        (Ask("/v1/other", "no", "one", "vllm"), {}, (), "OPERATION_UNSUPPORTED"),
        (Ask(CHAT, "no", "one", "vllm"), {}, (), "MODEL_NOT_FOUND"),
        (Ask(CHAT, "m", "two", "vllm"), {}, (), "MODEL_NOT_FOUND"),
        (Ask(CHAT, "m", "one", "vllm"), {}, (), "MODEL_FORBIDDEN"),
        (Ask(CHAT, "m", "one", "vllm"), {}, ("*",), "MODEL_FORBIDDEN"),
        (Ask(CHAT, "m"), {"availability": Availability.MAINTENANCE}, ("*",), "MODEL_FORBIDDEN"),
    ],
)
def test_the_order_of_refusals_is_firsts(
    ask: Ask, cluster: dict[str, Any], caller: tuple[str, ...], reason: str
) -> None:
    """Each of these is wrong in whatever comes after, too: the endpoint is for nobody whom these callers are."""
    closed = dataclasses.replace(HERE, access=AccessPolicy(("nobody",)))
    catalogue = Catalogue.of([dataclasses.replace(SITE, **cluster), closed])
    principal = Principal("users/alice", permissions=Permissions(caller))
    decision = decided(principal, ask, catalogue, NOW)
    assert decision.error is not None
    assert decision.error.reason is Reason[reason]


@pytest.mark.parametrize("closed", ["cluster", "endpoint", "route"])
def test_each_of_cluster_endpoint_and_route_can_refuse(closed: str) -> None:
    access = {kind: AccessPolicy(("g",) if kind == closed else ()) for kind in ("cluster", "endpoint", "route")}
    catalogue = Catalogue.of(
        [
            dataclasses.replace(SITE, access=access["cluster"]),
            dataclasses.replace(HERE, access=access["endpoint"]),
            Route("routes/m", "m", (RouteTarget(HERE.name),), access=access["route"]),
        ]
    )
    refused = decided(person(), Ask(CHAT, "m"), catalogue, NOW)
    assert refused.error is not None
    assert refused.error.reason is Reason.MODEL_FORBIDDEN
    assert decided(person(groups=frozenset({"g"})), Ask(CHAT, "m"), catalogue, NOW).endpoints == {HERE.name}


def test_an_endpoint_whose_cluster_is_not_known_is_for_nobody() -> None:
    decision = decided(person(), Ask(CHAT, "m"), Catalogue.of([HERE]), NOW)
    assert decision.error is not None
    assert decision.error.reason is Reason.MODEL_FORBIDDEN


def test_a_route_leads_to_its_targets_alone_and_asks_for_itself() -> None:
    other = dataclasses.replace(HERE, name="clusters/one/endpoints/other")
    route = Route("routes/m", "m", (RouteTarget(other.name),), access=AccessPolicy(("g",)))
    catalogue = Catalogue.of([SITE, HERE, other, route])
    assert decided(person(groups=frozenset({"g"})), Ask(CHAT, "m"), catalogue, NOW).endpoints == {other.name}
    refused = decided(person(), Ask(CHAT, "m"), catalogue, NOW)
    assert refused.steps[-1] == Step(
        "routes/m",
        False,
        "You may not use the model 'm': it is for members of g. GET /v1/models lists those that you may use.",
    )
    pinned = Ask(CHAT, "m", "one")
    assert decided(person(), pinned, catalogue, NOW).error is not None, "a cluster's URL is no way around the policy"
    member = decided(person(groups=frozenset({"g"})), pinned, catalogue, NOW)
    assert member.endpoints == {HERE.name, other.name}, "whoever names a cluster does not go by the route's targets"


def test_one_endpoint_that_admits_is_enough_and_the_others_are_told() -> None:
    strict = dataclasses.replace(HERE, name="clusters/one/endpoints/strict", access=AccessPolicy(max_session_age=60.0))
    catalogue = Catalogue.of([SITE, HERE, strict])
    decision = decided(person(authenticated_at=NOW - 50), Ask(CHAT, "m"), catalogue, NOW)
    assert (decision.endpoints, decision.until) == (frozenset({HERE.name, strict.name}), NOW + 10)
    decision = decided(person(authenticated_at=NOW - 70), Ask(CHAT, "m"), catalogue, NOW)
    assert (decision.endpoints, decision.until) == (frozenset({HERE.name}), math.inf)
    assert [step.subject for step in decision.steps if not step.admitted] == [strict.name]


def test_a_new_login_is_asked_for_where_it_may_help() -> None:
    strict = dataclasses.replace(HERE, access=AccessPolicy(require_mfa=True))
    closed = dataclasses.replace(HERE, name="clusters/one/endpoints/closed", access=AccessPolicy(("g",)))
    decision = decided(person(), Ask(CHAT, "m"), Catalogue.of([SITE, strict, closed]), NOW)
    assert decision.error is not None
    assert decision.error.reason is Reason.SESSION_INSUFFICIENT
    assert "weft login" in decision.error.message


def test_a_persons_own_workers_are_for_that_person() -> None:
    launch = LaunchPolicy(GlobusFunction("e"), serves="users/alice@anl.gov")
    own = Endpoint(HERE.name, GlobusBackend(launch=launch), models=HERE.models)
    catalogue = Catalogue.of([SITE, own])
    alice = dataclasses.replace(person(), name="users/alice@anl.gov")
    assert decided(alice, Ask(CHAT, "m"), catalogue, NOW).endpoints == {own.name}
    assert decided(person(), Ask(CHAT, "m"), catalogue, NOW).error is not None
    assert not open_to_all(catalogue, own)


@pytest.mark.parametrize(
    ("allowed", "operation", "may"),
    [
        ((), CHAT, True),
        (("chat/completions",), CHAT, True),
        (("chat/*",), CHAT, True),
        (("embeddings",), CHAT, False),
        (("chat",), CHAT, False),
        (("/tokenize",), "/tokenize", True),
        (("tokenize",), "/tokenize", False),
        (("embeddings",), "", True),
    ],
)
def test_the_scope_of_operations(allowed: tuple[str, ...], operation: str, may: bool) -> None:
    principal = Principal("users/a", permissions=Permissions(("*",), allow_operations=allowed))
    open_site = dataclasses.replace(SITE, operations=())
    decision = decided(principal, Ask(operation, "m"), Catalogue.of([open_site, HERE]), NOW)
    assert (decision.error is None) is may
    if decision.error is not None:
        assert decision.error.reason is Reason.ACTION_FORBIDDEN


@given(LENIENT, LENIENT)
def test_what_is_open_to_all_has_no_condition(cluster: AccessPolicy, endpoint: AccessPolicy) -> None:
    catalogue = Catalogue.of([dataclasses.replace(SITE, access=cluster), dataclasses.replace(HERE, access=endpoint)])
    expected = cluster == endpoint == AccessPolicy()
    assert open_to_all(catalogue, catalogue.endpoints[HERE.name]) is expected


# The mesh


def test_the_mesh_admits_whom_its_policy_is_for() -> None:
    mesh = MeshPolicy(AccessPolicy(allowed_domains=("anl.gov",)))
    assert admit(mesh, person(), NOW).reason is None
    assert admit(mesh, person(domain="d.org"), NOW).reason is Reason.IDENTITY_FORBIDDEN
    assert admit(mesh, person(domain="d.org", kind=CredentialKind.KEY), NOW).reason is None
    assert admit(mesh, person(domain="d.org", kind=CredentialKind.CERTIFICATE), NOW).reason is None


def test_service_accounts_must_be_named() -> None:
    account = dataclasses.replace(person(service_account=True), name="services/c1")
    assert admit(MeshPolicy(), account, NOW).reason is Reason.IDENTITY_FORBIDDEN
    assert admit(MeshPolicy(service_accounts=("services/c2",)), account, NOW).reason is Reason.IDENTITY_FORBIDDEN
    strict = MeshPolicy(AccessPolicy(("g",), require_mfa=True), service_accounts=("services/c1",))
    assert admit(strict, account, NOW).reason is None


@pytest.mark.parametrize("provider", ["p", "anl.gov"])
def test_users_of_a_provider_must_be_in_its_groups(provider: str) -> None:
    mesh = MeshPolicy(provider_groups={provider: ("g", "")})
    assert admit(mesh, person(groups=frozenset({"g"})), NOW).reason is None
    for groups in ((), ("h",), ("",)):
        assert admit(mesh, person(domain="ANL.gov", groups=frozenset(groups)), NOW).reason is Reason.IDENTITY_FORBIDDEN
    assert admit(mesh, person(domain="d.org", identity_provider="q"), NOW).reason is None
    assert admit(MeshPolicy(provider_groups={provider: ()}), person(), NOW).reason is Reason.IDENTITY_FORBIDDEN


def test_administrators_by_name_and_by_group() -> None:
    mesh = MeshPolicy(administrators=("users/root@*", "groups/ops"))
    assert roles_of(mesh, person()) == {Role.USER}
    assert roles_of(mesh, dataclasses.replace(person(), name="users/root@anl.gov")) == {Role.USER, Role.ADMIN}
    assert roles_of(mesh, person(groups=frozenset({"ops"}))) == {Role.USER, Role.ADMIN}
    assert roles_of(mesh, dataclasses.replace(person(), name="users/ops")) == {Role.USER}


def test_the_first_rule_that_fits_a_name_counts_and_each_groups_own() -> None:
    rules = (
        QuotaRule("users/alice", Quota(tokens_per_day=1)),
        QuotaRule("users/*", Quota(tokens_per_day=2)),
        QuotaRule("groups/g", Quota(tokens_per_day=3)),
        QuotaRule("groups/h", Quota(tokens_per_day=4)),
    )
    found = quotas_of(MeshPolicy(quotas=rules), person(groups=frozenset({"g"})))
    assert [(one.subject, one.quota.tokens_per_day) for one in found] == [("users/alice", 1), ("groups/g", 3)]
