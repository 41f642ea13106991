"""The parts of auth's section of weft.yaml that say who may use the mesh, and how much; and the policy that they make.

Durations are in seconds.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from services.core.access import GROUP, MeshPolicy
from services.core.catalogue import AccessPolicy
from services.core.quota import Quota, QuotaRule

_SUBJECT: Final = re.compile(r"\*|(users|services|workers)/\S+|groups/\S+")
_ADMINISTRATOR: Final = re.compile(r"(users|services|groups)/(?!\*+$)\S+")

_Amount = Annotated[int, msgspec.Meta(ge=0)]
_Rate = Annotated[float, msgspec.Meta(ge=0)]
_Age = Annotated[float, msgspec.Meta(gt=0)]


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`auth.policy`: who of those whom Globus or another issuer knows may use the mesh at all. All conditions must
    hold, one of the values of each is enough. Keys and certificates, which an administrator made, need nothing of it.
    """

    allowed_domains: tuple[str, ...] = ()
    """`anl.gov`, or `*.anl.gov` for all below."""
    allowed_identity_providers: tuple[str, ...] = ()
    """UUIDs of Globus Auth's, URLs of other issuers."""
    allowed_groups: tuple[str, ...] = ()
    """UUIDs of Globus Groups, `{group}@{issuer}` of other issuers."""
    allowed_principals: tuple[str, ...] = ()
    """Patterns of principals who need none of the three above: `users/alice@example.org`, or `*` for everybody."""
    authentication_policies: tuple[str, ...] = ()
    """UUIDs of Globus Auth's, all of which a session must satisfy."""
    max_session_age_s: _Age | None = None
    require_mfa: bool = False
    provider_groups: dict[str, tuple[str, ...]] = {}
    """By identity provider, or by domain as in FIRST: groups any of which its users must be in."""
    service_accounts: tuple[str, ...] = ()
    """Patterns of those who may use the mesh: `services/{client}`. No other may."""
    administrators: tuple[str, ...] = ()
    """Patterns of principals, and `groups/{group}`."""

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec tells with the place in weft.yaml."""
        for pattern in self.administrators:
            if _ADMINISTRATOR.fullmatch(pattern) is None:
                raise ValueError(f"'administrators' may hold 'users/…', 'services/…' and 'groups/…', not {pattern!r}")
        for pattern in self.service_accounts:
            if not pattern.startswith("services/"):
                raise ValueError(f"'service_accounts' may hold 'services/{{client}}', not {pattern!r}")


class QuotaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of `auth.quotas`. 0 means without limit."""

    subject: str
    """A pattern of principals, each of whom has the quota (`users/*`), or `groups/{group}`, whose members share it."""
    requests_per_second: _Rate = 0.0
    concurrent_calls: _Amount = 0
    tokens_per_minute: _Amount = 0
    tokens_per_day: _Amount = 0

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec tells with the place in weft.yaml."""
        if _SUBJECT.fullmatch(self.subject) is None or (self.subject.startswith(GROUP) and "*" in self.subject):
            raise ValueError("'subject' must be a pattern of principals, like 'users/*', or one 'groups/{group}'")


def check_said(policy: PolicyConfig) -> None:
    """Raises ValueError for a policy that does not say who may use the mesh: where identities come from outside, as
    from Globus Auth, anybody on earth can have one.
    """
    if not any(
        (
            policy.allowed_domains,
            policy.allowed_identity_providers,
            policy.allowed_groups,
            policy.allowed_principals,
        )
    ):
        raise ValueError(
            "'policy' must say who may use the mesh: set 'allowed_domains', 'allowed_identity_providers' or"
            " 'allowed_groups', or 'allowed_principals: [\"*\"]' if everybody on earth is meant"
        )


def mesh_policy(policy: PolicyConfig, quotas: tuple[QuotaConfig, ...]) -> MeshPolicy:
    """The policy that they make."""
    return MeshPolicy(
        AccessPolicy(
            allowed_globus_groups=policy.allowed_groups,
            allowed_domains=policy.allowed_domains,
            allowed_identity_providers=policy.allowed_identity_providers,
            allowed_principals=policy.allowed_principals,
            authentication_policies=policy.authentication_policies,
            max_session_age=policy.max_session_age_s,
            require_mfa=policy.require_mfa,
        ),
        # Domains in small letters, as they are looked for; an issuer's URL stays as it is.
        {name if "/" in name else name.lower(): groups for name, groups in policy.provider_groups.items()},
        policy.service_accounts,
        policy.administrators,
        tuple(
            QuotaRule(
                one.subject,
                Quota(one.requests_per_second, one.concurrent_calls, one.tokens_per_minute, one.tokens_per_day),
            )
            for one in quotas
        ),
    )
