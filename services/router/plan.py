"""Planning: who may take a call, in which order, and why the others may not; pure, with neither I/O nor a clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from services.router.targets import Server, Target

Policy = Callable[[Iterable[Target]], list[Target]]
"""Orders targets, best first."""

NOT_READY = "its vLLM does not answer"
DRAINING = "it is shutting down"
TRIED = "it was tried"
FULL = "it has as many calls as it takes"
PRIVATE = "it serves another caller alone"


@dataclass(frozen=True, slots=True)
class Plan:
    """Candidates, best first, and those left out, with the reason in words."""

    candidates: tuple[Target, ...]
    left_out: tuple[tuple[Target, str], ...]

    @property
    def closed(self) -> str:
        """Why waiting is of no use, if so: every target is closed by its operators."""
        if self.candidates or not all(target.closed for target, _ in self.left_out):
            return ""
        return next((reason for _, reason in self.left_out), "")


def plan(targets: Iterable[Target], *, policy: Policy, caller: str = "", tried: Collection[Server] = ()) -> Plan:
    """Plans one call of the principal `caller`, or its next attempt when `tried` servers have failed it."""
    fit: list[Target] = []
    left_out: list[tuple[Target, str]] = []
    for target in targets:
        if reason := _unfit(target, caller, tried):
            left_out.append((target, reason))
        else:
            fit.append(target)
    if len(fit) > 1:
        fit = policy(fit)
    return Plan(tuple(fit), tuple(left_out))


def may_take(target: Target, caller: str) -> bool:
    """Whether the target could take a call of the principal now."""
    return not _unfit(target, caller, ())


def _unfit(target: Target, caller: str, tried: Collection[Server]) -> str:
    """Why a target cannot take the call; empty if it can."""
    server = target.server
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
