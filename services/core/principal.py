"""Who is calling: a name, what it may do, and the identity that a credential proves."""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass

from services.core.errors import Reason, ServiceError
from services.core.quota import SubjectQuota

_NAME = re.compile(r"(users|services|workers)/[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")


class Role(enum.Enum):
    """What a caller may do beside calling models; by the names and numbers of `weft.auth.v1.Role`."""

    USER = 1
    ADMIN = 2
    WORKER = 3
    SERVICE = 4


class CredentialKind(enum.Enum):
    """What kind of credential proves an identity; by the names and numbers of `weft.auth.v1.CredentialKind`."""

    KEY = 1
    GLOBUS = 2
    OIDC = 3
    CERTIFICATE = 4


@dataclass(frozen=True, slots=True)
class Permissions:
    """The scope of a credential: patterns of names, in which `*` stands for any text. What a deny pattern matches is
    refused, whatever allow says. Operations are as in OpenAI's paths without `/v1/`, or vLLM's full path; none means
    all.
    """

    allow_models: tuple[str, ...] = ()
    deny_models: tuple[str, ...] = ()
    allow_endpoints: tuple[str, ...] = ()
    allow_operations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is, as far as policies ask; see `weft.auth.v1.Identity`.

    `authenticated_at` is in seconds since 1970: when they last proved themselves to the identity provider in this
    session; None if that is unknown.
    """

    kind: CredentialKind = CredentialKind.KEY
    subject: str = ""
    username: str = ""
    display_name: str = ""
    domain: str = ""
    identity_provider: str = ""
    identity_provider_name: str = ""
    groups: frozenset[str] = frozenset()
    authenticated_at: float | None = None
    mfa: bool = False
    authentication_policies: frozenset[str] = frozenset()
    service_account: bool = False


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone known: `users/{user}`, `services/{service}` or `workers/{worker}`."""

    name: str
    roles: frozenset[Role] = frozenset()
    permissions: Permissions = Permissions()
    identity: Identity = Identity()
    quotas: tuple[SubjectQuota, ...] = ()

    def require(self, *roles: Role, action: str) -> None:
        """Raises ACTION_FORBIDDEN unless the principal has one of the roles; `action` begins the sentence."""
        if not self.roles.intersection(roles):
            wanted = " or ".join(f"'{role.name.lower()}'" for role in roles)
            raise ServiceError(Reason.ACTION_FORBIDDEN, f"{action} needs a key with the role {wanted}.")


def is_principal(name: str) -> bool:
    """Whether it is the name of a principal."""
    return _NAME.fullmatch(name) is not None


def denied_as(name: str) -> str:
    """How a principal is called where it is denied: in small letters, so that nobody is missed by a capital. Of two who
    differ by nothing else, both are denied.
    """
    return name.lower()


def may_serve(principal: Principal, endpoint: str) -> bool:
    """Whether a worker with this identity may serve the endpoint."""
    return Role.WORKER in principal.roles and matches(principal.permissions.allow_endpoints, endpoint)


def matches(patterns: tuple[str, ...], name: str) -> bool:
    """Whether one of the patterns, in which `*` stands for any text, fits the name."""
    return any(pattern in ("*", name) or ("*" in pattern and _fits(pattern, name)) for pattern in patterns)


@functools.lru_cache(maxsize=4096)
def _fits(pattern: str, name: str) -> bool:
    """Whether `*`, which stands for any text, makes the pattern fit the name.

    Not fnmatch, in which `[` and `?` have meanings too, and both occur in names of models; nor a regular expression,
    which many `*` make slow.
    """
    first, *middle, last = pattern.split("*")
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
