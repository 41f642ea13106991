"""Faults on demand: what the service is to do wrong, until it has done so often enough or is told to stop."""

from __future__ import annotations

import asyncio
import fnmatch

import msgspec
from aiohttp import web

from tests.globus.service.errors import refusal


class Fault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Requests that `route` matches are delayed, and answered with `status` if there is one.

    `route` is a pattern of method and path such as `POST */submit`, `* /v2/oauth2/*` or `*`. `times` counts down; None
    means for ever.
    """

    route: str = "*"
    status: int = 0
    code: str = "EMULATED_FAULT"
    reason: str = "The emulated service was told to fail."
    delay_s: float = 0.0
    times: int | None = None


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What else may be wrong."""

    enforce_allow_lists: bool = True
    """False: the service knows of no allow-list, so that the endpoint itself is seen to refuse."""
    deliver_twice: int = 0
    """So many of the next tasks are delivered to their endpoint twice."""


class Faults:
    """The faults that wait to happen, and the settings."""

    def __init__(self) -> None:
        self.settings = Settings()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Has it happen from now on."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Everything is well again."""
        self._faults.clear()
        self.settings = Settings()

    async def happen(self, request: web.Request) -> web.Response | None:
        """What becomes of a request; None if nothing is wrong with it."""
        asked = f"{request.method} {request.path}"
        for fault in self._faults:
            if fault.times == 0 or not fnmatch.fnmatchcase(asked, fault.route):
                continue
            if fault.times is not None:
                fault.times -= 1
            await asyncio.sleep(fault.delay_s)
            if fault.status:
                return refusal(fault.status, fault.code, fault.reason)
        return None

    def twice(self) -> bool:
        """Whether the task at hand is to be delivered twice."""
        if self.settings.deliver_twice <= 0:
            return False
        self.settings.deliver_twice -= 1
        return True
