"""Planning: who may take a call, in which order, and why the others may not; pure, with neither I/O nor a clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from services.router.targets import Server, Sought, Target

Policy = Callable[[Iterable[Target]], list[Target]]
"""Orders targets, best first."""

NOT_READY = "its vLLM does not answer"
DRAINING = "it is shutting down"
TRIED = "it was tried"
FULL = "it has as many calls as it takes"
PRIVATE = "it serves another caller alone"
FORBIDDEN = "the caller may not use its endpoint"


@dataclass(frozen=True, slots=True)
class Plan:
    """Candidates, best first, and those left out, with the reason in words."""

    candidates: tuple[Target, ...]
    left_out: tuple[tuple[Target, str], ...]

    @property
    def unfit(self) -> tuple[Target, ...]:
        """Those left out that the caller may use."""
        return tuple(target for target, reason in self.left_out if reason != FORBIDDEN)

    @property
    def awaited(self) -> bool:
        """Whether one of these may take the call at another time."""
        return any(not target.closed for target in self.unfit)

    @property
    def closed(self) -> str:
        """Why waiting is of no use, if so: every target that the caller may use is closed by its operators."""
        if self.candidates or self.awaited:
            return ""
        return next((target.closed for target in self.unfit), "")


def plan(
    targets: Iterable[Target],
    *,
    policy: Policy,
    caller: str = "",
    tried: Collection[Server] = (),
    permitted: frozenset[str] | None = None,
) -> Plan:
    """Plans one call of the principal `caller`, or its next attempt when `tried` servers have failed it. `permitted`
    are the endpoints that it may go to, by name; None for all.
    """
    fit: list[Target] = []
    left_out: list[tuple[Target, str]] = []
    for target in targets:
        if reason := _unfit(target, caller, permitted, tried):
            left_out.append((target, reason))
        else:
            fit.append(target)
    if len(fit) > 1:
        fit = policy(fit)
    return Plan(tuple(fit), tuple(left_out))


def may_take(target: Target, sought: Sought) -> bool:
    """Whether the target could take a call now that seeks this."""
    return not _unfit(target, sought.caller, sought.endpoints, ())


def _unfit(target: Target, caller: str, permitted: frozenset[str] | None, tried: Collection[Server]) -> str:
    """Why a target cannot take the call; empty if it can."""
    server = target.server
    if permitted is not None and server.endpoint not in permitted:
        return FORBIDDEN
    if target.closed:
        return target.closed
    if server.serves and server.serves != caller:
        return PRIVATE
    if server in tried:
        return TRIED
    if server.draining:
        return DRAINING
    if not server.ready:
        return NOT_READY
    if server.max_calls and server.open_calls >= server.max_calls:
        return FULL
    return ""
