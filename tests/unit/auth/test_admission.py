"""What the mesh's policy gives to whoever a credential proves."""

from dataclasses import replace

import pytest

from services.auth.admission import admitted, endowed
from services.auth.judged import Judged
from services.core.access import MeshPolicy
from services.core.catalogue import AccessPolicy
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Principal, Role
from services.core.quota import Quota, QuotaRule, SubjectQuota

NAME = "users/alice@anl.gov"
MESH = MeshPolicy(
    AccessPolicy(allowed_domains=("anl.gov",), max_session_age=100.0),
    administrators=(NAME, "groups/admins"),
    quotas=(
        QuotaRule(NAME, Quota(tokens_per_minute=10)),
        QuotaRule("users/*", Quota(tokens_per_minute=1)),
        QuotaRule("groups/admins", Quota(tokens_per_day=100)),
    ),
)


def judged(kind: CredentialKind, *roles: Role, domain: str = "anl.gov", at: float | None = 1000.0) -> Judged:
    identity = Identity(kind, domain=domain, groups=frozenset({"admins"}), authenticated_at=at)
    return Judged(Principal(NAME, frozenset(roles), identity=identity), None, 30.0)


@pytest.mark.parametrize("kind", [CredentialKind.KEY, CredentialKind.CERTIFICATE])
def test_what_was_made_by_hand_has_its_own_roles_alone(kind: CredentialKind) -> None:
    given = admitted(MESH, judged(kind, Role.USER, domain="", at=None), 5000.0)
    assert given.principal.roles == {Role.USER}
    assert given.max_age == 30.0
    assert SubjectQuota(NAME, Quota(tokens_per_minute=10)) in given.principal.quotas
    assert SubjectQuota("groups/admins", Quota(tokens_per_day=100)) in given.principal.quotas


@pytest.mark.parametrize("kind", [CredentialKind.GLOBUS, CredentialKind.OIDC])
def test_identities_have_the_roles_that_the_policy_gives(kind: CredentialKind) -> None:
    given = admitted(MESH, judged(kind), 1050.0)
    assert given.principal.roles == {Role.USER, Role.ADMIN}
    late = admitted(MESH, replace(judged(kind), expires_at=9000.0), 1090.0)
    # As an expiry too: routers keep what they know for longer while auth is away, but not beyond that.
    assert (late.max_age, late.expires_at) == (10.0, 1100.0)
    assert admitted(MESH, replace(judged(kind), expires_at=1095.0), 1090.0).expires_at == 1095.0
    # An administrator of yesterday is one no more when the policy no longer says so.
    assert endowed(MeshPolicy(), given.principal).roles == {Role.USER}
    for stranger, reason in (
        (judged(kind, domain="evil.example"), Reason.IDENTITY_FORBIDDEN),
        (judged(kind, at=900.0), Reason.SESSION_INSUFFICIENT),
        (judged(kind, at=None), Reason.SESSION_INSUFFICIENT),
    ):
        with pytest.raises(ServiceError) as caught:
            admitted(MESH, stranger, 1050.0)
        assert caught.value.reason is reason
        assert NAME in caught.value.message
