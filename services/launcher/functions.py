"""Which registered function to call at an endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from services.core.catalogue import Catalogue
from services.core.globus import Function, GlobusFunction
from services.globus.errors import GlobusError, Kind
from services.launcher.tasks import TaskRunner

_REMEMBERED: Final = 60.0
"""Seconds that an endpoint's allow-list is kept."""


class Functions:
    """Finds the UUID of a function: the one that the catalogue sets, else the newest of Weft's own that the endpoint
    allows.
    """

    def __init__(self, tasks: TaskRunner, clock: Callable[[], float] = time.monotonic) -> None:
        self._tasks = tasks
        self._clock = clock
        self._allowed: dict[tuple[str, str], tuple[float, frozenset[str] | None]] = {}

    async def find(self, catalogue: Catalogue, name: str, at: GlobusFunction, credentials: str) -> str:
        """The UUID. Raises `GlobusError` if none is registered, or none of them allowed."""
        if at.function_uuid:
            return at.function_uuid
        function = catalogue.functions.get(name)
        candidates = [] if function is None else _registered_for(function, at.endpoint_uuid)
        if not candidates:
            raise GlobusError(Kind.UNKNOWN_FUNCTION, f"No '{name}' is registered that {at.endpoint_uuid} may run.")
        allowed = await self._allowed_at(at.endpoint_uuid, credentials)
        for uuid in candidates:
            if allowed is None or uuid in allowed:
                return uuid
        self._allowed.pop((at.endpoint_uuid, credentials), None)  # whoever mends it need not wait
        message = f"The endpoint {at.endpoint_uuid} allows none of the registrations of '{name}'."
        raise GlobusError(Kind.FUNCTION_NOT_ALLOWED, message)

    async def _allowed_at(self, endpoint_uuid: str, credentials: str) -> frozenset[str] | None:
        key = (endpoint_uuid, credentials)
        known = self._allowed.get(key)
        if known is not None and self._clock() - known[0] < _REMEMBERED:
            return known[1]
        allowed = await self._tasks.allowed_functions(credentials, endpoint_uuid)
        self._allowed[key] = (self._clock(), allowed)
        return allowed


def _registered_for(function: Function, endpoint_uuid: str) -> list[str]:
    """Newest first; those made for this high-assurance endpoint before those for all."""
    own = [version.uuid for version in function.versions if version.ha_endpoint_uuid == endpoint_uuid]
    return own + [version.uuid for version in function.versions if not version.ha_endpoint_uuid]
