"""What all calls are dispatched by: who is there, in which order they are tried, how hard, and who hears of the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from services.core.deadlines import Bounds, Scheduler
from services.core.errors import ServiceError
from services.core.inference import Request
from services.core.tracing import TraceContext
from services.router.audit import CallAudit
from services.router.cold import ColdEndpoints
from services.router.plan import Policy
from services.router.roster import Roster


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """How hard the router tries. Durations are in seconds, sizes in bytes."""

    bounds: Bounds
    max_attempts: int
    wait_for_worker: float
    max_waiting: int
    cold_patience: float = 600.0
    heartbeat_after: float = 15.0
    max_waiting_bytes: int = 512 * 1024 * 1024


class FinishedCall(Protocol):
    """What there is to tell of a call that has ended. Times are the scheduler's."""

    @property
    def request(self) -> Request:
        """The call."""

    @property
    def attempts(self) -> int:
        """How many servers it was given to."""

    @property
    def started(self) -> float:
        """When it came."""

    @property
    def first_byte_at(self) -> float | None:
        """When its answer began, if it did."""

    @property
    def context(self) -> TraceContext | None:
        """The place of its span, if it is traced."""


class CallMeter(Protocol):
    """Counts what the records of calls do not tell. Endpoints are names."""

    def retried(self, endpoint: str, error: ServiceError) -> None:
        """An attempt has failed before its first byte, and its call looks for another server."""

    def stalled(self, endpoint: str) -> None:
        """An answer stands still, as its client takes no more."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What calls share. `finished` is told of each one's end: `ok`, `cancelled`, or the reason of the error. Without a
    `meter` nothing is counted.
    """

    roster: Roster
    policy: Policy
    settings: DispatchSettings
    scheduler: Scheduler
    finished: Callable[[FinishedCall, str], None]
    audit: CallAudit
    cold: ColdEndpoints = field(default_factory=ColdEndpoints)
    meter: CallMeter | None = None
