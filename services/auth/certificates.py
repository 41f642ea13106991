"""What callers with client certificates may do: rules by SPIFFE ids; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Permissions, Principal, Role, is_principal, matches
from services.rpc.peer import path_of, trust_domain_of


class CertificateRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For the SPIFFE ids that `pattern` fits, in which `*` stands for any text. They are `principal`, or, if that is
    empty, what their path says: `spiffe://weft/users/alice` is `users/alice`. No models means none, no operations all.
    """

    pattern: str
    principal: str = ""
    roles: tuple[Literal["user", "admin", "worker", "service"], ...] = ("user",)
    allow_models: tuple[str, ...] = ()
    deny_models: tuple[str, ...] = ()
    allow_operations: tuple[str, ...] = ()
    allow_endpoints: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec tells with the place in weft.yaml."""
        # A pattern without a whole trust domain would fit ids of domains that nobody meant.
        domain = self.pattern.removeprefix("spiffe://").partition("/")[0]
        if trust_domain_of(f"spiffe://{domain}/x") is None or not self.pattern.startswith(f"spiffe://{domain}/"):
            raise ValueError("a pattern of SPIFFE ids looks like 'spiffe://weft/users/*'")
        if self.principal and not is_principal(self.principal):
            raise ValueError("a principal looks like 'users/alice' or 'services/billing'")


def certificate_principal(rules: Sequence[CertificateRule], spiffe_id: str) -> Principal:
    """Who holds a certificate with this id, by the first rule that fits it. Raises IDENTITY_FORBIDDEN if none does, or
    if the id cannot be anybody's.
    """
    if trust_domain_of(spiffe_id) is None:
        raise _forbidden(f"{spiffe_id[:200]!r} is no SPIFFE id with a path; show a certificate that has one.")
    rule = next((rule for rule in rules if matches((rule.pattern,), spiffe_id)), None)
    if rule is None:
        remedy = "ask your administrator for one in 'auth.certificates'"
        raise _forbidden(f"No rule admits the certificate of {spiffe_id}; {remedy}.")
    name = rule.principal or path_of(spiffe_id)
    if not is_principal(name):
        remedy = f"its rule in 'auth.certificates', {rule.pattern!r}, must give the principal"
        raise _forbidden(f"The path of {spiffe_id} names no principal, such as users/alice; {remedy}.")
    permissions = Permissions(rule.allow_models, rule.deny_models, rule.allow_endpoints, rule.allow_operations)
    identity = Identity(
        CredentialKind.CERTIFICATE,
        subject=spiffe_id,
        username=name.partition("/")[2],
        groups=frozenset(rule.groups),
        service_account=not name.startswith("users/"),
    )
    return Principal(name, frozenset(Role[role.upper()] for role in rule.roles), permissions, identity)


def _forbidden(message: str) -> ServiceError:
    return ServiceError(Reason.IDENTITY_FORBIDDEN, message)
