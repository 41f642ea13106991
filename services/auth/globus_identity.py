"""What Globus Auth says of a token, as a principal; pure.

The fields are those of https://docs.globus.org/api/auth/reference/ (token introspection) and
https://docs.globus.org/api/auth/sessions/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from services.auth.claims import LEEWAY, moment, past, second_factor
from services.core.access import MeshPolicy, admit
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Permissions, Principal, is_principal

CLIENTS: Final = "clients.auth.globus.org"
"""The domain of the identities of applications themselves."""

_EVERY_MODEL: Final = Permissions(allow_models=("*",))
_LOG_IN: Final = "Log in again: 'weft login --force'."

_RANK: Final[Mapping[Reason | None, int]] = {None: 0, Reason.SESSION_INSUFFICIENT: 1, Reason.IDENTITY_FORBIDDEN: 2}

Told = Mapping[str, Any]


def check_token(told: Told, *, client_id: str, scope: str, now: float) -> float:
    """When the token expires, in seconds since 1970, if it is good and was given for us. Raises CREDENTIAL_INVALID or
    CREDENTIAL_EXPIRED.
    """
    if told.get("active") is not True:
        raise ServiceError(Reason.CREDENTIAL_INVALID, "Globus does not know this token; log in: 'weft login'.")
    audience = told.get("aud")
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        message = "This Globus token was given for another service; get one for this one: 'weft login'."
        raise ServiceError(Reason.CREDENTIAL_INVALID, message)
    if scope not in str(told.get("scope", "")).split():
        message = f"This Globus token does not have the scope {scope}; get one that has: 'weft login'."
        raise ServiceError(Reason.CREDENTIAL_INVALID, message)
    expires, begins = moment(told.get("exp")), moment(told.get("nbf", 0))
    if expires is None or now >= expires:
        raise ServiceError(Reason.CREDENTIAL_EXPIRED, "The Globus token has expired; get a new one: 'weft token'.")
    if begins is None or now + LEEWAY < begins:
        raise ServiceError(Reason.CREDENTIAL_INVALID, "The Globus token is not valid yet; check the clocks.")
    return expires


def to_principal(told: Told, groups: Iterable[str], mesh: MeshPolicy, now: float) -> Principal:
    """Whose the token is: a person by the identity that they logged in with, or a service account.

    Of several logins in one session counts the one that the mesh admits, as in FIRST, and of these the latest. An
    identity that is merely linked proves nothing: one that was stolen would open what the others may.

    Raises SESSION_INSUFFICIENT if nothing says which identity that was.
    """
    members = frozenset(groups)
    if told.get("username") == f"{told.get('sub')}@{CLIENTS}":
        return _service(told, members)
    people = [_person(told, login, who, members, now) for login, who in _logins(told)]
    if not people:
        message = f"Your Globus session tells no login of its own, so that nobody knows who you are. {_LOG_IN}"
        raise ServiceError(Reason.SESSION_INSUFFICIENT, message)
    return max(people, key=lambda one: (-_RANK[admit(mesh, one, now).reason], one.identity.authenticated_at or 0.0))


def _person(told: Told, login: Told, who: Told, groups: frozenset[str], now: float) -> Principal:
    identity = Identity(
        CredentialKind.GLOBUS,
        subject=str(who.get("sub") or who.get("id")),
        username=str(who.get("username") or ""),
        display_name=str(who.get("name") or ""),
        domain=_domain(who),
        identity_provider=str(login.get("idp") or ""),
        identity_provider_name=str(who.get("identity_provider_display_name") or ""),
        groups=groups,
        authenticated_at=past(login.get("auth_time"), now),
        mfa=second_factor(login.get("acr"), login.get("amr")),
        authentication_policies=_satisfied(told),
    )
    # Usernames of Globus hold an '@', ids do not: the one never looks like the other. Small letters, as addresses are
    # the same in both, and who is denied as one must not call as the other.
    name = f"users/{identity.username}"
    name = name.lower() if is_principal(name) else f"users/{identity.subject}"
    return Principal(name, permissions=_EVERY_MODEL, identity=identity)


def _service(told: Told, groups: frozenset[str]) -> Principal:
    identity = Identity(
        CredentialKind.GLOBUS,
        subject=str(told["sub"]),
        username=str(told["username"]),
        display_name=str(told.get("name") or ""),
        domain=CLIENTS,
        identity_provider=CLIENTS,
        identity_provider_name=str(told.get("iss") or ""),
        groups=groups,
        service_account=True,
    )
    return Principal(f"services/{identity.subject}", permissions=_EVERY_MODEL, identity=identity)


def _logins(told: Told) -> Iterator[tuple[Told, Told]]:
    """Each login of the session, and the identity that it was made with."""
    session, detail = told.get("session_info"), told.get("identity_set_detail")
    known = {one.get("sub") or one.get("id"): one for one in detail or () if isinstance(one, dict)}
    logins = session.get("authentications") if isinstance(session, dict) else None
    for identity, login in (logins if isinstance(logins, dict) else {}).items():
        if isinstance(login, dict) and identity in known:
            yield login, known[identity]


def _satisfied(told: Told) -> frozenset[str]:
    """The authentication policies that the session satisfies, of those that were asked for."""
    evaluations = told.get("policy_evaluations")
    return frozenset(
        policy
        for policy, result in (evaluations if isinstance(evaluations, dict) else {}).items()
        if isinstance(result, dict) and result.get("evaluation") is True
    )


def _domain(who: Told) -> str:
    """What stands behind the last `@`: `alice@anl.gov@accounts.google.com` is an identity of Google's."""
    _, at, domain = str(who.get("username") or "").rpartition("@")
    return domain if at else ""
