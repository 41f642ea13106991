"""What a request that a proxy asks about may pass for, as far as its method, path and bearer tell; pure.

The path says which operation or RPC is meant, the body, which a proxy does not read, which model. So this is coarse: it
refuses what is refused for any body, and whoever serves the request decides again, by all that there is to know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from services.core.access import operation_refusal
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal, Role

OPEN_PATHS: Final = frozenset(
    {"/health", "/version", "/resource_server/health", "/resource_server/health/", "/resource_server/status"}
)
"""What the facade answers to everybody."""

_OPEN_RPCS: Final = frozenset(
    {
        "/weft.session.v1.SessionService/Enrol",
        "/weft.session.v1.SessionService/RenewToken",
        "/weft.session.v1.SessionService/Connect",
    }
)
"""Workers show tokens there that the router judges by itself."""

_OPEN_SERVICES: Final = frozenset(
    {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
)

_KNOWN: Final = frozenset(Role)
_OPERATORS: Final = frozenset({Role.ADMIN, Role.SERVICE})
_SERVICES: Final[Mapping[str, frozenset[Role]]] = {
    "weft.inference.v1.InferenceService": _KNOWN,
    "weft.usage.v1.UsageService": _KNOWN,
    "weft.session.v1.SessionService": _OPERATORS,
    "weft.registry.v1.RegistryService": _OPERATORS,
    "weft.launcher.v1.LauncherService": _OPERATORS,
    "weft.auth.v1.AuthService": _OPERATORS,
}
"""Who may call any RPC of a service. What is not here is closed: so are multiplexed streams, of which each call inside
has a bearer of its own, and a proxy sees none of them.
"""
_CLOSED_RPCS: Final = frozenset({"/weft.inference.v1.InferenceService/Multiplex"})

_FIRST: Final = re.compile(r"/resource_server(?:/[^/]+/[^/]+)?(/v1/.+)")


def needs_nobody(path: str) -> bool:
    """Whether the request may pass whoever sends it."""
    return path in OPEN_PATHS or path in _OPEN_RPCS or _service_of(path) in _OPEN_SERVICES


def check_passage(principal: Principal, method: str, path: str, *, grpc: bool) -> None:
    """Raises ACTION_FORBIDDEN if no such request of this principal would be served."""
    if grpc:
        _check_rpc(principal, path)
    elif method == "POST" and (error := operation_refusal(principal, operation_of(path))) is not None:
        raise error


def _check_rpc(principal: Principal, path: str) -> None:
    allowed = None if path in _CLOSED_RPCS else _SERVICES.get(_service_of(path))
    if allowed is None:
        raise ServiceError(Reason.ACTION_FORBIDDEN, f"{path[:200]} is closed.")
    principal.require(*sorted(allowed, key=lambda role: role.value), action=path.rpartition("/")[2])


def _service_of(path: str) -> str:
    return path[1:].rpartition("/")[0]


def operation_of(path: str) -> str:
    """The operation that a path means: FIRST's URLs mean the same ones."""
    match = _FIRST.fullmatch(path)
    return match[1] if match is not None else path
