"""Who is calling, and the one place that decides which models they may call."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass

from services.core.errors import Reason, ServiceError


class Role(enum.Enum):
    """What a caller may do beside calling models; by the names and numbers of `weft.auth.v1.Role`."""

    USER = 1
    ADMIN = 2
    WORKER = 3
    SERVICE = 4


@dataclass(frozen=True, slots=True)
class Permissions:
    """Patterns of names, in which `*` stands for any text. What a deny pattern matches is refused, whatever allow
    says.
    """

    allow_models: tuple[str, ...] = ()
    deny_models: tuple[str, ...] = ()
    allow_endpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone known: `users/{user}`, `services/{service}` or `workers/{worker}`."""

    name: str
    roles: frozenset[Role] = frozenset()
    permissions: Permissions = Permissions()

    def require(self, *roles: Role, action: str) -> None:
        """Raises ACTION_FORBIDDEN unless the principal has one of the roles; `action` begins the sentence."""
        if not self.roles.intersection(roles):
            wanted = " or ".join(f"'{role.name.lower()}'" for role in roles)
            raise ServiceError(Reason.ACTION_FORBIDDEN, f"{action} needs a key with the role {wanted}.")


def may_call(principal: Principal, model: str) -> bool:
    """Whether the principal may call the model."""
    permissions = principal.permissions
    return _matches(permissions.allow_models, model) and not _matches(permissions.deny_models, model)


def may_serve(principal: Principal, endpoint: str) -> bool:
    """Whether a worker with this identity may serve the endpoint."""
    return Role.WORKER in principal.roles and _matches(principal.permissions.allow_endpoints, endpoint)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
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
