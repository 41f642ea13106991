"""What a caller may use, asked once and remembered: the router's side of `core/access.py`, which alone decides."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from services.core.access import Ask, Decision, decide
from services.core.catalogue import Catalogue
from services.core.errors import ServiceError
from services.core.principal import Principal
from services.router.roster import Roster
from services.router.targets import TargetIndex

_MOST: Final = 16_384
"""Decisions that are remembered: the pairs of callers and models that are warm."""


class Permit(NamedTuple):
    """Where a call may go, and for how many seconds from now that holds. `endpoints` are names; None stands for all
    that the model has, so that callers who may use them all wait in one queue.
    """

    endpoints: frozenset[str] | None
    lasts: float = math.inf

    def allows(self, endpoint: str) -> bool:
        """Whether it is for an endpoint, by name."""
        return self.endpoints is None or endpoint in self.endpoints


class _Remembered(NamedTuple):
    """A decision, until a time in seconds since 1970. It holds its principal, so that no other comes to its place in
    memory, by which it is found: hashing all that is known of somebody costs more than deciding.
    """

    principal: Principal
    permit: Permit
    until: float
    error: ServiceError | None


class Permits:
    """Decisions by the roster's present index. `clock` is in seconds since 1970, as sessions are dated by."""

    def __init__(self, roster: Roster, *, clock: Callable[[], float] = time.time, most: int = _MOST) -> None:
        self._roster = roster
        self._clock = clock
        self._most = most
        self._index: TargetIndex | None = None
        self.hits = 0
        self.misses = 0
        """How often it remembered, and how often it had to decide."""
        self._remembered: OrderedDict[tuple[int, Ask], _Remembered] = OrderedDict()

    def permit(self, principal: Principal, ask: Ask) -> Permit:
        """Where the principal may have that done. Raises what `decide` decides."""
        now = self._clock()
        found = self._find(principal, ask, now)
        if found.error is not None:
            # Another each time: what is raised holds on to the frames that it went through, and to their bodies.
            raise ServiceError(found.error.reason, found.error.message, param=found.error.param)
        return found.permit if found.until == math.inf else Permit(found.permit.endpoints, found.until - now)

    def sees(self, principal: Principal, model: str, cluster: str = "", framework: str = "") -> Permit | None:
        """Where the principal may use a model, whatever state clusters are in; None if it may not, or nobody has it."""
        found = self._find(principal, Ask("", model, cluster, framework), self._clock())
        return found.permit if found.error is None else None

    def explain(self, principal: Principal, ask: Ask) -> Decision:
        """The decision with its steps; never a remembered one."""
        return self._decide(principal, ask, self._clock())

    def _find(self, principal: Principal, ask: Ask, now: float) -> _Remembered:
        if self._roster.index is not self._index:
            self._remembered.clear()
            self._index = self._roster.index
        key = (id(principal), ask)
        found = self._remembered.get(key)
        if found is not None and now < found.until:
            self._remembered.move_to_end(key)
            self.hits += 1
            return found
        self.misses += 1
        decision = self._decide(principal, ask, now)
        found = _Remembered(principal, Permit(self._endpoints(decision, ask)), decision.until, decision.error)
        if self._roster.settled:  # until then what is unknown may become so for good without another index
            self._remembered[key] = found
            self._remembered.move_to_end(key)
            if len(self._remembered) > self._most:
                self._remembered.popitem(last=False)
        return found

    def _decide(self, principal: Principal, ask: Ask, now: float) -> Decision:
        serving = self._roster.serving(ask.model, ask.cluster, ask.framework)
        if serving is None and not self._roster.settled:
            serving = ()  # Its worker may be dialling again: the call waits, and this is decided anew when it is there.
        return decide(principal, ask, self._roster.catalogue or Catalogue(), serving, now)

    def _endpoints(self, decision: Decision, ask: Ask) -> frozenset[str] | None:
        serving = self._roster.serving(ask.model, ask.cluster, ask.framework)
        if serving and decision.endpoints.issuperset(endpoint.name for endpoint in serving):
            return None
        return decision.endpoints
