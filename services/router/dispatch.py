"""One call on its way through the router: attempts at servers until one gives the first byte, then bytes pass through.

This is the one layer that retries. Until the first byte of the body nothing has been promised to the client, so that a
failed attempt moves to another server; after it, a failure ends the call with an error, for an answer continued
elsewhere would not be one answer.

A call for a model without a free server waits: a little for workers that come back, and as long as its caller has
patience where a worker can be started. A streamed one hears meanwhile how things stand (`heartbeat.py`).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from services.core.access import unknown_model
from services.core.deadlines import HOP, Bounds, Scheduler, Timer, Watchdog
from services.core.errors import Reason, ServiceError
from services.core.inference import Head, Headers, Receiver, Request
from services.router import verdict
from services.router.attempt import Attempt
from services.router.audit import CallAudit, Record
from services.router.bill import Bill
from services.router.body import Wanted
from services.router.cold import ColdEndpoints
from services.router.credit import Credit
from services.router.heartbeat import (
    EVENT_STREAM,
    STREAMED,
    Misfit,
    comment,
    error_event,
    is_event_stream,
)
from services.router.outward import outward_body
from services.router.patience import read_patience
from services.router.permits import Permit
from services.router.plan import Plan, Policy, plan
from services.router.roster import Roster
from services.router.targets import Launchable, Server, Sought, Target
from services.router.trimmed import Trimmed

log = logging.getLogger(__name__)

_ANSWER_TOKENS: Final = 256
"""What a call without a bound is reckoned to generate, for comparing loads."""

_SOONEST_COMMENT: Final = 1.0
"""Seconds of silence that no client hears a comment before, however little patience it claims."""

_MOST_TOKENS: Final = 1 << 20
"""What one call is reckoned to cost at most: a client that asks for 10^18 tokens is not to make a server look busy."""


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


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Starts calls."""

    roster: Roster
    policy: Policy
    settings: DispatchSettings
    scheduler: Scheduler
    finished: Callable[[DispatchedCall, str], None]
    audit: CallAudit
    cold: ColdEndpoints = field(default_factory=ColdEndpoints)


class DispatchedCall:
    """A call that is authorised: a `Call` towards the client, looking for a server that answers it.

    `outcome` is told to the dispatcher at the end: `ok`, `cancelled`, or the reason of the error.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        request: Request,
        wanted: Wanted,
        model: str,
        receiver: Receiver,
        credit: int,
        *,
        permit: Callable[[], Permit],
        bill: Bill,
        caller: str = "",
        asked: Headers = (),
    ) -> None:
        """`caller` is the principal's name; `asked` are the caller's own headers, which say how long it waits.
        `permit` tells before each attempt where the call may go at that time; it raises `ServiceError`. `bill` is the
        call's, and closed by it.
        """
        self.request = request
        self.model = model
        self.attempts = 0
        self.turn = 0
        self.started = dispatcher.scheduler.time()
        self.first_byte_at: float | None = None
        self._dispatcher = dispatcher
        self._wanted = wanted
        self._receiver = receiver
        self._streamed = wanted.stream and request.operation in STREAMED
        self._credit = Credit(credit, shared=self._streamed)
        self.caller = caller
        self._asked = asked
        self._ask_permit = permit
        self._permit = Permit(frozenset())
        self._bill = bill
        self._over_limits: dict[str, ServiceError] = {}
        self._adds_usage = False
        self._trimmed: Trimmed | None = None
        self._attempt: Attempt | None = None
        self._status = 0
        self._record: Record | None = None
        self._tried: list[Server] = []
        self._waiting: Timer | None = None
        self._waiting_until = 0.0
        self._cold_until: float | None = None
        self._planned = Plan((), ())
        self._last_error: ServiceError | None = None
        self._held = False
        self._over = False
        self._said = b""
        settings = dispatcher.settings
        bounds = settings.bounds.within(request.timeout, request.first_byte_timeout)
        if self._streamed:
            self._watchdog = Watchdog(
                dispatcher.scheduler, bounds, self._expire, quiet=self._beat, quiet_after=settings.heartbeat_after
            )
        else:
            self._watchdog = Watchdog(dispatcher.scheduler, bounds, self._expire)

    # Call

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        more = self._credit.grant(credit)
        if self._attempt is not None:
            self._watchdog.pause(False)
            if more:
                self._attempt.call.grant(more)
            if self._trimmed is not None and self._trimmed.owes:
                self._trimmed.granted()

    def cancel(self) -> None:
        """See `Call.cancel`."""
        if not self._over:
            self._finish("cancelled")

    # Attempts

    def begin(self, *, admitted: bool) -> None:
        """Looks for a server, once its caller's limits admit it, if they have not yet."""
        if not admitted:
            self._bill.ask(self._admitted)
        else:
            self.next_attempt()

    def _admitted(self, error: ServiceError | None) -> None:
        if error is not None:
            self.fail(error)
        else:
            self.next_attempt()

    def next_attempt(self) -> None:
        """Tries the best server that was not tried yet; waits for one if there is none, or gives up."""
        if self._over:
            return  # The client left between the opening of the call and this first step.
        request, dispatcher = self.request, self._dispatcher
        try:
            self._permit = self._ask_permit()
        except ServiceError as error:
            self.fail(error)
            return
        self._planned = planned = plan(
            dispatcher.roster.find(self.model, request.cluster, request.framework) or (),
            policy=dispatcher.policy,
            caller=self.caller,
            tried=self._tried,
            permitted=self._permit.endpoints,
        )
        if self.attempts >= dispatcher.settings.max_attempts:
            self.fail(self._last_error or ServiceError(Reason.NO_WORKER))
        elif planned.candidates:
            self._choose(planned)
        else:
            self._wait()

    def _choose(self, planned: Plan) -> None:
        """Tries the best of the candidates whose limits admit the call; the others are passed over like full ones."""
        catalogue, refused = self._dispatcher.roster.catalogue, self._over_limits
        for target in planned.candidates:
            endpoint = target.server.endpoint
            if endpoint in refused or catalogue is None:
                continue
            try:
                admitted = self._bill.admit_at(catalogue, endpoint)
            except ServiceError as error:
                refused[endpoint] = error
                continue
            if admitted:
                self._try(target, alternatives=len(planned.candidates) > 1)
            else:
                self._bill.ask(functools.partial(self._asked_at, endpoint), endpoint)
            return
        over = next((refused[target.server.endpoint] for target in planned.candidates), ServiceError(Reason.NO_WORKER))
        if planned.awaited and self._last_error is None:
            self._last_error = over
            self._wait()
        else:
            self.fail(over)

    def _asked_at(self, endpoint: str, error: ServiceError | None) -> None:
        if error is not None:
            self._over_limits[endpoint] = error
        self.next_attempt()

    def _try(self, target: Target, *, alternatives: bool) -> None:
        self._stop_waiting()
        if self._held:
            self._held = False
            self._watchdog.ask_at(self._dispatcher.scheduler.time())
        try:
            request = self._request_for(target)
            if target.audited:
                self._record = self._dispatcher.audit.begin(
                    request, caller=self.caller, model=self.model, server=target.server
                )
        except ServiceError as error:
            self.fail(error)
            return
        self.attempts += 1
        may_move = alternatives and self.attempts < self._dispatcher.settings.max_attempts
        self._attempt = Attempt(self, target.server, may_move=may_move, cost=self._cost())
        credit, inference = self._credit.lend(), target.server.inference
        if self._record is None:
            self._attempt.call = inference.open(request, self._attempt, credit)
        else:
            self._attempt.call = self._record.open(inference, request, self._attempt, credit)

    def _request_for(self, target: Target) -> Request:
        request, wanted = self.request, self._wanted
        body, self._adds_usage = outward_body(request, wanted, target, self._bill.edits)
        return msgspec.structs.replace(
            request,
            body=body,
            timeout=max(0.1, self._watchdog.remaining),
            first_byte_timeout=max(0.1, self._watchdog.first_byte_remaining),
            cluster="",
            framework="",
        )

    def _cost(self) -> int:
        # Four bytes a token is the usual reckoning for English; it only has to compare calls with each other.
        return len(self.request.body) // 4 + min(self._wanted.max_tokens or _ANSWER_TOKENS, _MOST_TOKENS)

    # Waiting

    def _wait(self) -> None:
        """Waits for a worker to come, or to come back, as during a restart."""
        dispatcher = self._dispatcher
        scheduler, roster, now = dispatcher.scheduler, dispatcher.roster, dispatcher.scheduler.time()
        sought = self._sought()
        launchable = roster.launchable(sought)
        until = self._waits_until(launchable)
        if not self.turn and self._crowded():
            self.fail(self._last_error or verdict.crowded(roster.waiting))
        elif now >= until or verdict.closed(self._planned, launchable) or self._hopeless(launchable):
            self._give_up()
        else:
            self._tried.clear()
            self._over_limits.clear()
            ends = min(until, now + self._permit.lasts)
            if self._waiting is None or ends != self._waiting_until:
                self._stop_waiting()
                self._waiting, self._waiting_until = scheduler.call_at(ends, self._waited), ends
                if launchable and self.request.first_byte_timeout is None:
                    self._held = True
                    self._watchdog.ask_at(math.inf)
            roster.waiting_calls.add(self, sought)

    def _waited(self) -> None:
        """It has waited as long as it does, or as it may without being judged anew: its login may be too old now."""
        if self._dispatcher.scheduler.time() < self._waits_until(self._launchable()):
            self._waiting = None
            self._dispatcher.roster.waiting_calls.wake(self)
        else:
            self._give_up()

    @property
    def computing(self) -> bool:
        """Whether a server has the call now."""
        return self._attempt is not None

    @property
    def size(self) -> int:
        """See `Waiter.size`."""
        return len(self.request.body)

    def _crowded(self) -> bool:
        """Whether as many calls wait as may, or hold as many bytes."""
        settings, waiting = self._dispatcher.settings, self._dispatcher.roster.waiting_calls
        return len(waiting) >= settings.max_waiting or waiting.size + self.size > settings.max_waiting_bytes

    def _waits_until(self, launchable: Sequence[Launchable]) -> float:
        settings = self._dispatcher.settings
        if all(one.closed for one in launchable):
            return self.started + settings.wait_for_worker
        if self._cold_until is None:
            patience = read_patience(self._asked)
            if self._streamed and patience.silence < 2 * settings.heartbeat_after:
                self._watchdog.quiet_every(max(_SOONEST_COMMENT, patience.silence / 2))
            own = (bound - HOP for bound in (self.request.timeout, self.request.first_byte_timeout) if bound)
            seconds = min(settings.cold_patience, patience.wait if self._streamed else patience.whole, *own)
            self._cold_until = self.started + seconds
        return self._cold_until

    def _hopeless(self, launchable: Sequence[Launchable]) -> bool:
        """Whether no worker will come in time, as those that were started have failed."""
        if not launchable or self._planned.awaited:
            return False
        within = self._waits_until(launchable) - self._dispatcher.scheduler.time()
        return self._dispatcher.cold.hopeless(launchable, within)

    def _sought(self) -> Sought:
        request, endpoints = self.request, self._permit.endpoints
        return self._dispatcher.roster.sought(self.model, request.cluster, request.framework, self.caller, endpoints)

    def _launchable(self) -> tuple[Launchable, ...]:
        return self._dispatcher.roster.launchable(self._sought())

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        launchable = self._launchable()
        if self._last_error is not None:
            self.fail(self._last_error)
        elif shut := verdict.closed(self._planned, launchable):
            self.fail(ServiceError(Reason.CLUSTER_MAINTENANCE, shut))
        elif self._dispatcher.roster.find(self.model, self.request.cluster, self.request.framework) is None:
            self.fail(unknown_model(self.model))
        else:
            outlook = self._dispatcher.cold.outlook(launchable) if launchable else None
            self.fail(verdict.not_served(self.model, self._planned, outlook))

    def state_changed(self) -> None:
        """See `Waiter.state_changed`."""
        if self._hopeless(self._launchable()):
            self._give_up()
        elif self._said and self._comment() != self._said:
            self._beat()

    # Heartbeats

    def _comment(self) -> bytes:
        attempt, cold = self._attempt, self._dispatcher.cold
        if attempt is None:
            outlook = cold.outlook(self._launchable())
            return comment(outlook.word, outlook.detail)
        known = cold.get(attempt.server.endpoint)
        if known is not None and known.tasks:
            return comment("working", "its answer travels as a task, and comes as a whole")
        return comment("working", "the model server has the call, and has not begun its answer")

    def _beat(self) -> None:
        """Tells the client how things stand, which commits the answer to a stream of events."""
        said = self._comment()
        if len(said) > self._credit.room:
            return
        if not self._said:
            self._receiver.head(self._bill.told(EVENT_STREAM))
        if self._over:
            return  # The client has left at the sight of the head.
        self._said = said
        self._credit.comment(len(said))
        self._receiver.data(said)

    # What becomes of attempts

    def attempt_failed(self, attempt: Attempt, error: ServiceError) -> None:
        """An attempt failed before its first byte."""
        self._attempt = None
        self._bill.leave()
        self._credit.take_back()
        self._write_outcome(error.reason.name.lower())
        self._last_error = error
        self._tried.append(attempt.server)
        if error.reason is Reason.UPSTREAM_UNREACHABLE:
            attempt.server.ready = False  # until it is heard to be well again
        request_id = self.request.header("x-request-id")
        log.info("call %s: attempt %d at %s failed: %s", request_id, self.attempts, attempt.server.endpoint, error)
        if error.kind.elsewhere:
            self.next_attempt()
        else:
            self.fail(error)

    def freed(self, server: Server) -> None:
        """A server that was full has room again."""
        self._dispatcher.roster.freed(server)

    # The answer

    def first_byte(self, head: Head) -> None:
        """From here on the client has the answer of this attempt."""
        self.first_byte_at = self._dispatcher.scheduler.time()
        self._status = head.status
        self._credit.begin()
        told = self._bill.head(head)
        if self._adds_usage and self._attempt is not None and is_event_stream(head):
            self._trimmed = Trimmed(self, self._attempt.call)
            self._attempt.hand_over(self._trimmed)
        if not self._said:
            self._receiver.head(told)
        elif not is_event_stream(head) and self._attempt is not None:
            self._attempt.hand_over(Misfit(self, head, self._credit.lent))

    def misfit(self, head: Head, body: bytes) -> None:
        """A server's answer is no event stream, and the client has the beginning of one: it becomes its last event."""
        if head.status < 400:
            message = f"The model server answered with status {head.status} and no stream of events."
            self.fail(ServiceError(Reason.UPSTREAM_BROKEN, message))
            return
        event = error_event(self.request.operation, head.status, body, self._credit.left)
        if event is None:
            message = f"The model server answered with status {head.status}."
            self.fail(ServiceError(Reason.UPSTREAM_BROKEN, message))
            return
        self._receiver.data(event)
        if not self._over:
            self._finish("ok")
            self._receiver.end()

    @property
    def room(self) -> int:
        """See `TrimmedOwner.room`."""
        return 0 if self._over else self._credit.left

    def touch(self) -> None:
        """See `TrimmedOwner.touch`."""
        self._watchdog.touch()

    def data(self, chunk: bytes) -> None:
        """Bytes pass through."""
        self._watchdog.touch()
        self._bill.feed(chunk)
        credit = self._credit
        credit.left -= len(chunk)
        if credit.left <= credit.kept:
            self._watchdog.pause(True)
        self._receiver.data(chunk)
        if credit.kept and credit.left <= credit.kept and self._attempt is not None:
            # The server has used up what it was given, and no comment will be made any more.
            self._watchdog.pause(False)
            self._attempt.call.grant(credit.release())

    def end(self) -> None:
        """The answer is whole."""
        if not self._over:
            self._finish("ok")
            self._receiver.end()

    def fail(self, error: ServiceError) -> None:
        """The answer will not be whole."""
        if not self._over:
            self._finish(error.reason.name.lower(), error.kind.http)
            self._receiver.fail(error)

    def _expire(self, error: ServiceError) -> None:
        if error.reason is Reason.FIRST_BYTE_TIMEOUT and self._attempt is None:
            self._give_up()
        else:
            self.fail(error)

    def _finish(self, outcome: str, status: int = 0) -> None:
        self._over = True
        self._watchdog.close()
        self._stop_waiting()
        if self.turn:
            self._dispatcher.roster.waiting_calls.leave(self)
        attempt, self._attempt = self._attempt, None
        if self._trimmed is not None:
            self._bill.taken_out = self._trimmed.usage
        told = self._status or (EVENT_STREAM.status if self._said else status)
        self._bill.close(outcome, told, reached=attempt is not None)
        if attempt is not None:
            attempt.abandon()
        self._write_outcome(outcome)
        self._dispatcher.finished(self, outcome)

    def _write_outcome(self, outcome: str) -> None:
        """To the audit log, what became of the call at the server that it was at."""
        if self._record is not None:
            self._record.end(outcome, self._status)
            self._record = None
