"""What `weft auth explain` says: the steps, the verdict, and what is only supposed."""

from __future__ import annotations

import dataclasses

import pytest

from services.cli.explain import Facts, judged, lines
from services.core.access import Ask, MeshPolicy
from services.core.catalogue import AccessPolicy, Catalogue, Cluster, Endpoint, ModelBinding, SessionBackend
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Permissions, Principal

NOW = 1_800_000_000.0
NO_POLICY = MeshPolicy()
ASK = Ask("/v1/chat/completions", "m")
SITE = Cluster("clusters/one", access=AccessPolicy(allowed_domains=("anl.gov",)))
OPEN = Endpoint("clusters/one/endpoints/open", SessionBackend(), models=(ModelBinding("m"),))
STRICT = dataclasses.replace(OPEN, name="clusters/one/endpoints/strict", access=AccessPolicy(max_session_age=3600.0))
ALICE = Principal(
    "users/alice@anl.gov",
    permissions=Permissions(("*",)),
    identity=Identity(CredentialKind.GLOBUS, domain="anl.gov", groups=frozenset({"g"})),
)


def told(caller: Principal, *endpoints: Endpoint, mesh: MeshPolicy = NO_POLICY, ask: Ask = ASK) -> list[str]:
    return lines(*judged(caller, None, mesh, ask, Catalogue.of([SITE, *endpoints]), NOW))


def test_each_step_is_told_and_where_the_call_may_go() -> None:
    assert told(ALICE, OPEN, STRICT) == [
        "✓ auth: the credential counts",
        "✓ the mesh: all conditions hold",
        "✓ the credential: its scope holds model and operation",
        "✓ clusters/one: all conditions hold",
        "✓ clusters/one/endpoints/open: all conditions hold",
        "✓ clusters/one: all conditions hold",
        "✗ clusters/one/endpoints/strict: it takes a login whose time is known, which your credential does not tell",
        "allowed: clusters/one/endpoints/open",
    ]


def test_a_refusal_ends_with_what_the_caller_would_hear() -> None:
    stranger = dataclasses.replace(ALICE, identity=Facts(domain="evil.org").put(ALICE.identity, NOW))
    assert told(stranger, OPEN)[-2:] == [
        "✗ clusters/one: it is for identities of anl.gov, and yours has 'evil.org'",
        "refused: 403 MODEL_FORBIDDEN: You may not use the model 'm': it is for identities of anl.gov, and yours has "
        "'evil.org'. GET /v1/models lists those that you may use.",
    ]


def test_the_mesh_and_auth_come_first() -> None:
    mesh = MeshPolicy(AccessPolicy(("h",)))
    assert told(ALICE, OPEN, mesh=mesh)[-1].startswith("refused: 403 IDENTITY_FORBIDDEN")
    barred = ServiceError(Reason.CREDENTIAL_EXPIRED, "It has expired.")
    decision, _ = judged(ALICE, barred, MeshPolicy(), ASK, Catalogue(), NOW)
    assert lines(decision, []) == ["✗ auth: It has expired.", "refused: 401 CREDENTIAL_EXPIRED: It has expired."]


def test_facts_count_instead_of_what_was_seen() -> None:
    facts = Facts(groups=["x", ""], provider="p", policies=["q"], logged_in=60.0, mfa=True)
    assert facts.put(ALICE.identity, NOW) == dataclasses.replace(
        ALICE.identity,
        groups=frozenset({"x"}),
        identity_provider="p",
        authentication_policies=frozenset({"q"}),
        authenticated_at=NOW - 60,
        mfa=True,
    )
    assert Facts().put(ALICE.identity, NOW) == ALICE.identity
    assert Facts(groups=[""]).put(ALICE.identity, NOW).groups == frozenset()
    fresh = dataclasses.replace(ALICE, identity=Facts(logged_in=60.0).put(ALICE.identity, NOW))
    decision, _ = judged(fresh, None, MeshPolicy(), ASK, Catalogue.of([SITE, STRICT]), NOW)
    assert decision.until == NOW + 3540


def test_what_workers_report_is_only_supposed() -> None:
    reporting = dataclasses.replace(OPEN, models=())
    said = told(ALICE, reporting)
    assert said[-2:] == [
        "note: no endpoint lists 'm'; supposed is that workers report it, of clusters/one/endpoints/open",
        "allowed: clusters/one/endpoints/open",
    ]
    assert told(ALICE)[-1] == "refused: 404 MODEL_NOT_FOUND: The model `m` does not exist."


@pytest.mark.parametrize("cluster", ["one", "two"])
def test_a_call_to_a_cluster(cluster: str) -> None:
    assert told(ALICE, OPEN, ask=ASK._replace(cluster=cluster))[-1].startswith("allowed") is (cluster == "one")
