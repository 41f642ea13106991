"""The wait of one call for a server: for what, how long, and the verdict at its end.

A little for workers that come back, and as long as the caller has patience where a worker can be started.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

from services.core.access import unknown_model
from services.core.deadlines import HOP, Timer, Watchdog
from services.core.errors import Reason, ServiceError
from services.core.inference import Headers, Request
from services.core.tracing import TraceContext
from services.router import verdict
from services.router.cold import Outlook
from services.router.dispatcher import Dispatcher
from services.router.patience import read_patience
from services.router.permits import Permit
from services.router.plan import Plan
from services.router.targets import Launchable, Sought

_SOONEST_COMMENT: Final = 1.0
"""Seconds of silence that no client hears a comment before, however little patience it claims."""


class WaitingCall(Protocol):
    """The call that waits. `permit`, `planned` and `last_error` are what its last look for a server has brought."""

    permit: Permit
    planned: Plan
    last_error: ServiceError | None

    @property
    def request(self) -> Request:
        """What is asked for."""

    @property
    def model(self) -> str:
        """The public name."""

    @property
    def caller(self) -> str:
        """The principal's name."""

    @property
    def started(self) -> float:
        """When it came, by the scheduler's clock."""

    @property
    def context(self) -> TraceContext | None:
        """The place of its span, if it is traced."""

    def next_attempt(self) -> None:
        """Something may serve it now."""

    def state_changed(self) -> None:
        """What it waits for is in another state."""

    def fail(self, error: ServiceError) -> None:
        """It is given up."""


class Wait:
    """A call's place among the waiting: a `Waiter`. A call that waits again has the same."""

    __slots__ = (
        "_asked",
        "_call",
        "_cold_until",
        "_dispatcher",
        "_held",
        "_streamed",
        "_timer",
        "_until",
        "_watchdog",
        "caller",
        "size",
        "turn",
    )

    def __init__(
        self, call: WaitingCall, dispatcher: Dispatcher, watchdog: Watchdog, asked: Headers, *, streamed: bool
    ) -> None:
        """`asked` are the caller's own headers, which say how long it waits; `streamed` that it hears comments."""
        self.turn = 0
        self.caller = call.caller
        self.size = len(call.request.body)
        self._call = call
        self._dispatcher = dispatcher
        self._watchdog = watchdog
        self._asked = asked
        self._streamed = streamed
        self._timer: Timer | None = None
        self._until = 0.0
        self._cold_until: float | None = None
        self._held = False

    def begin(self) -> bool:
        """Waits for a worker to come, or to come back, as during a restart. False if it has given up at once."""
        scheduler, roster = self._dispatcher.scheduler, self._dispatcher.roster
        planned, now = self._call.planned, scheduler.time()
        sought = self._sought()
        launchable = roster.launchable(sought)
        until = self._ends_at(launchable)
        if not self.turn and self._crowded():
            self._call.fail(self._call.last_error or verdict.crowded(roster.waiting))
            return False
        if now >= until or verdict.closed(planned, launchable) or self._hopeless(launchable):
            self.give_up()
            return False
        ends = min(until, now + self._call.permit.lasts)
        if self._timer is None or ends != self._until:
            self._stop_timer()
            self._timer, self._until = scheduler.call_at(ends, self._waited), ends
            if launchable and self._call.request.first_byte_timeout is None:
                self._held = True
                self._watchdog.ask_at(math.inf)
        roster.waiting_calls.add(self, sought)
        return True

    def served(self) -> None:
        """A server takes the call: from now on it is asked for a first byte."""
        self._stop_timer()
        if self._held:
            self._held = False
            self._watchdog.ask_at(self._dispatcher.scheduler.time())

    def leave(self) -> None:
        """The call has ended, or what it waited for may have come."""
        self._stop_timer()
        if self.turn:
            self._dispatcher.roster.waiting_calls.leave(self)

    def give_up(self) -> None:
        """Ends the call with what explains best why nothing has served it."""
        call, launchable = self._call, self._launchable()
        if call.last_error is not None:
            call.fail(call.last_error)
        elif shut := verdict.closed(call.planned, launchable):
            call.fail(ServiceError(Reason.CLUSTER_MAINTENANCE, shut))
        elif self._dispatcher.roster.find(call.model, call.request.cluster, call.request.framework) is None:
            call.fail(unknown_model(call.model))
        else:
            outlook = self._dispatcher.cold.outlook(launchable) if launchable else None
            call.fail(verdict.not_served(call.model, call.planned, outlook))

    @property
    def outlook(self) -> Outlook:
        """What the call may expect."""
        return self._dispatcher.cold.outlook(self._launchable())

    # Waiter

    @property
    def context(self) -> TraceContext | None:
        """See `Waiter.context`."""
        return self._call.context

    def next_attempt(self) -> None:
        """See `Waiter.next_attempt`."""
        self._call.next_attempt()

    def state_changed(self) -> None:
        """See `Waiter.state_changed`."""
        if self._hopeless(self._launchable()):
            self.give_up()
        else:
            self._call.state_changed()

    def _waited(self) -> None:
        """It has waited as long as it does, or as it may without being judged anew: its login may be too old now."""
        if self._dispatcher.scheduler.time() < self._ends_at(self._launchable()):
            self._timer = None
            self._dispatcher.roster.waiting_calls.wake(self)
        else:
            self.give_up()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _crowded(self) -> bool:
        """Whether as many calls wait as may, or hold as many bytes."""
        settings, waiting = self._dispatcher.settings, self._dispatcher.roster.waiting_calls
        return len(waiting) >= settings.max_waiting or waiting.size + self.size > settings.max_waiting_bytes

    def _ends_at(self, launchable: Sequence[Launchable]) -> float:
        settings, call = self._dispatcher.settings, self._call
        if all(one.closed for one in launchable):
            return call.started + settings.wait_for_worker
        if self._cold_until is None:
            patience = read_patience(self._asked)
            if self._streamed and patience.silence < 2 * settings.heartbeat_after:
                self._watchdog.quiet_every(max(_SOONEST_COMMENT, patience.silence / 2))
            own = (bound - HOP for bound in (call.request.timeout, call.request.first_byte_timeout) if bound)
            seconds = min(settings.cold_patience, patience.wait if self._streamed else patience.whole, *own)
            self._cold_until = call.started + seconds
        return self._cold_until

    def _hopeless(self, launchable: Sequence[Launchable]) -> bool:
        """Whether no worker will come in time, as those that were started have failed."""
        if not launchable or self._call.planned.awaited:
            return False
        within = self._ends_at(launchable) - self._dispatcher.scheduler.time()
        return self._dispatcher.cold.hopeless(launchable, within)

    def _sought(self) -> Sought:
        request, endpoints = self._call.request, self._call.permit.endpoints
        return self._dispatcher.roster.sought(
            self._call.model, request.cluster, request.framework, self.caller, endpoints
        )

    def _launchable(self) -> tuple[Launchable, ...]:
        return self._dispatcher.roster.launchable(self._sought())
