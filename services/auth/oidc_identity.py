"""What the claims of an issuer of OpenID Connect say, as a principal; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from services.auth.claims import past, second_factor
from services.auth.identity_config import IssuerConfig
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Permissions, Principal, is_principal, matches

_GROUP: Final = re.compile(r"[^\s,]{1,200}")
_MOST_GROUPS: Final = 1000
_EVERY_MODEL: Final = Permissions(allow_models=("*",))

Claims = Mapping[str, Any]


def to_principal(claims: Claims, config: IssuerConfig, now: float) -> Principal:
    """Whom the claims describe. Raises IDENTITY_FORBIDDEN for a username that can be no principal's.

    Whoever has a username in one of the issuer's own domains is called by it, as with Globus; everybody else gets the
    issuer's name behind it, which is no domain, so that no issuer can make up somebody of another.
    """
    names = config.claims
    username = _find(claims, names.username)
    if not isinstance(username, str) or not _trusted(claims, names.username):
        raise _unusable(config, "is not there")
    domain = username.rpartition("@")[2].lower() if "@" in username else ""
    vouched = domain in {own.lower() for own in config.domains}
    service = matches(config.service_accounts, username)
    kind = "services" if service else "users"
    name = f"{kind}/{username}" if vouched else f"{kind}/{username}@{config.name}"
    if not is_principal(name):
        raise _unusable(config, "has other characters than letters, digits and '._@+-', or too many")
    identity = Identity(
        CredentialKind.OIDC,
        subject=str(claims["sub"]),
        username=username,
        display_name=str(_find(claims, names.display_name) or ""),
        domain=domain if vouched else "",
        identity_provider=config.issuer,
        identity_provider_name=config.name,
        groups=_groups(_find(claims, names.groups), config.name),
        authenticated_at=past(_find(claims, names.authenticated_at), now),
        mfa=second_factor(_find(claims, names.acr), _find(claims, names.amr), config.mfa),
        service_account=service,
    )
    # As with Globus; what an issuer calls people otherwise may differ by capitals alone.
    name = name.lower() if vouched else name
    return Principal(name, permissions=_EVERY_MODEL, identity=identity)


def _groups(said: Any, issuer: str) -> frozenset[str]:
    """With the issuer's name behind them, as its `admins` are not the members of somebody else's group of that name."""
    names = said if isinstance(said, list) else [said] if isinstance(said, str) else []
    fitting = [name for name in names if isinstance(name, str) and _GROUP.fullmatch(name)]
    return frozenset(f"{name}@{issuer}" for name in fitting[:_MOST_GROUPS])


def _trusted(claims: Claims, name: str) -> bool:
    """Anybody can type somebody else's address: one that was not verified names nobody (OpenID Connect Core, 5.1)."""
    return name != "email" or claims.get("email_verified") is True


def _find(claims: Claims, name: str) -> Any:
    if name in claims:
        return claims[name]
    place: Any = claims
    for part in name.split("."):
        place = place.get(part) if isinstance(place, dict) else None
    return place


def _unusable(config: IssuerConfig, why: str) -> ServiceError:
    message = (
        f"Your token names nobody: its claim '{config.claims.username}' {why}; the administrator can choose another in "
        f"auth.issuers ({config.name}: claims.username)."
    )
    return ServiceError(Reason.IDENTITY_FORBIDDEN, message)
