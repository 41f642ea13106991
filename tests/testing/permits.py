"""Permits of callers whose credential allows everything, for tests of what comes after."""

from __future__ import annotations

import functools
from collections.abc import Callable

from services.core.access import Ask
from services.core.inference import Request
from services.core.principal import Permissions, Principal
from services.router.permits import Permit, Permits
from services.router.roster import Roster


def permitted(roster: Roster, request: Request, model: str, caller: str = "") -> Callable[[], Permit]:
    """What tells where the caller's call may go, by the policies in the roster's catalogue."""
    principal = Principal(caller, permissions=Permissions(allow_models=("*",)))
    ask = Ask(request.operation, model, request.cluster, request.framework)
    return functools.partial(Permits(roster).permit, principal, ask)
