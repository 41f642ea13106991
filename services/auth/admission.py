"""Applies the mesh's policy to whoever a credential proves; `services.core.access` decides what it means; pure."""

from __future__ import annotations

import math
from dataclasses import replace

from services.auth.judged import Judged
from services.core.access import MeshPolicy, admit, quotas_of, roles_of
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Principal

_OF_ISSUERS = frozenset({CredentialKind.GLOBUS, CredentialKind.OIDC})


def admitted(mesh: MeshPolicy, judged: Judged, now: float) -> Judged:
    """The same with roles and quotas, to be kept no longer than the policy's verdict holds.

    Raises IDENTITY_FORBIDDEN or SESSION_INSUFFICIENT.
    """
    principal = judged.principal
    verdict = admit(mesh, principal, now)
    if verdict.reason is Reason.SESSION_INSUFFICIENT:
        message = f"'{principal.name}' is not admitted at present: {verdict.why}. Log in again: 'weft login --force'."
        raise ServiceError(Reason.SESSION_INSUFFICIENT, message, principal=principal.name)
    if verdict.reason is not None:
        message = f"'{principal.name}' is not admitted here: {verdict.why}; ask your administrator."
        raise ServiceError(Reason.IDENTITY_FORBIDDEN, message, principal=principal.name)
    judged = replace(judged, principal=endowed(mesh, principal))
    if verdict.until == math.inf:
        return judged
    # As an expiry, too: whoever keeps the answer for longer while auth is away must not keep it beyond that.
    ends = min(verdict.until, math.inf if judged.expires_at is None else judged.expires_at)
    return replace(judged, expires_at=ends, max_age=max(0.0, min(judged.max_age, ends - now)))


def endowed(mesh: MeshPolicy, principal: Principal) -> Principal:
    """The principal with the roles and quotas that the policy gives. A key or a certificate has the roles that it was
    made with, and no others: it may be scoped more closely than the person whose it is.
    """
    ours = principal.identity.kind not in _OF_ISSUERS
    roles = principal.roles if ours else roles_of(mesh, replace(principal, roles=frozenset()))
    return replace(principal, roles=roles, quotas=quotas_of(mesh, principal))
