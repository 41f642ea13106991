"""One call on its way through the router: attempts at servers until one gives the first byte, then bytes pass through.

This is the one layer that retries. Until the first byte of the body nothing has been promised to the client, so that a
failed attempt moves to another server; after it, a failure ends the call with an error, for an answer continued
elsewhere would not be one answer.

A call for a model without a free server waits (`wait.py`). A streamed one hears meanwhile how things stand
(`heartbeat.py`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Final

from services.core.deadlines import Watchdog
from services.core.errors import Reason, ServiceError
from services.core.inference import Head, Headers, Receiver, Request
from services.core.tracing import TraceContext, log_fields
from services.router.attempt import Attempt
from services.router.bill import Bill
from services.router.body import Wanted
from services.router.call_trace import ADMIT, CallTrace
from services.router.credit import Credit
from services.router.dispatcher import Dispatcher
from services.router.heartbeat import EVENT_STREAM, STREAMED, is_event_stream, waiting_comment, working_comment
from services.router.misfit import Misfit
from services.router.outward import outward
from services.router.permits import Permit
from services.router.plan import Plan, plan
from services.router.policies import reckon
from services.router.targets import Server, Target
from services.router.trimmed import Trimmed
from services.router.wait import Wait

log = logging.getLogger(__name__)

_NOWHERE: Final = Permit(frozenset())


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
        trace: CallTrace | None = None,
    ) -> None:
        """`caller` is the principal's name; `asked` are the caller's own headers, which say how long it waits.
        `permit` tells before each attempt where the call may go at that time; it raises `ServiceError`. `bill` is the
        call's, and closed by it. `trace` takes notes of it, if it is traced.
        """
        self.request = request
        self.model = model
        self.attempts = 0
        self.permit = _NOWHERE
        self.planned = Plan((), ())
        self.last_error: ServiceError | None = None
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
        self._bill = bill
        self._trace = trace
        self._over_limits: dict[str, ServiceError] = {}
        self._adds_usage = False
        self._trimmed: Trimmed | None = None
        self._attempt: Attempt | None = None
        self._status = 0
        self._tried: list[Server] = []
        self._its_wait: Wait | None = None
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
        if admitted:
            self.next_attempt()
        elif not self._over:
            self._ask(self._admitted)

    def _ask(self, then: Callable[[ServiceError | None], None], endpoint: str = "") -> None:
        if self._trace is not None:
            self._trace.begin(ADMIT)
        self._bill.ask(then, endpoint)

    def _admitted(self, error: ServiceError | None) -> None:
        if error is not None:
            self.fail(error)
        else:
            if self._trace is not None:
                self._trace.admit()
            self.next_attempt()

    def next_attempt(self) -> None:
        """Tries the best server that was not tried yet; waits for one if there is none, or gives up."""
        if self._over:
            return  # The client left between the opening of the call and this first step.
        request, dispatcher = self.request, self._dispatcher
        try:
            self.permit = self._ask_permit()
        except ServiceError as error:
            self.fail(error)
            return
        self.planned = planned = plan(
            dispatcher.roster.find(self.model, request.cluster, request.framework) or (),
            policy=dispatcher.policy,
            caller=self.caller,
            tried=self._tried,
            permitted=self.permit.endpoints,
        )
        if self.attempts >= dispatcher.settings.max_attempts:
            self.fail(self.last_error or ServiceError(Reason.NO_WORKER))
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
                self._try(target, len(planned.candidates))
            else:
                if self._its_wait is not None:
                    self._its_wait.leave()  # else its end would have the store asked once more
                self._ask(functools.partial(self._asked_at, endpoint), endpoint)
            return
        over = next((refused[target.server.endpoint] for target in planned.candidates), ServiceError(Reason.NO_WORKER))
        if planned.awaited and self.last_error is None:
            self.last_error = over
            self._wait()
        else:
            self.fail(over)

    def _asked_at(self, endpoint: str, error: ServiceError | None) -> None:
        if error is not None:
            self._over_limits[endpoint] = error
            if self._trace is not None:
                self._trace.done(error.reason.name.lower())
        self.next_attempt()

    def _try(self, target: Target, candidates: int) -> None:
        if self._its_wait is not None:
            self._its_wait.served()
        place = None if self._trace is None else self._trace.attempt(target, candidates)
        record, edits = None, self._bill.edits
        try:
            request, self._adds_usage = outward(self.request, self._wanted, target, edits, self._watchdog, place)
            if target.audited:
                record = self._dispatcher.audit.begin(
                    request, caller=self.caller, model=self.model, server=target.server
                )
        except ServiceError as error:
            self.fail(error)
            return
        self.attempts += 1
        may_move = candidates > 1 and self.attempts < self._dispatcher.settings.max_attempts
        cost = reckon(self.request.body, self._wanted.max_tokens)
        self._attempt = Attempt(self, target.server, record, may_move=may_move, cost=cost)
        self._attempt.open(request, self._credit.lend())

    # Waiting

    def _wait(self) -> None:
        if self._trace is not None:
            self._trace.wait(self.planned, starting=self._waits().outlook.under_way)
        if self._waits().begin():
            self._tried.clear()
            self._over_limits.clear()

    def _waits(self) -> Wait:
        if self._its_wait is None:
            self._its_wait = Wait(self, self._dispatcher, self._watchdog, self._asked, streamed=self._streamed)
        return self._its_wait

    @property
    def computing(self) -> bool:
        """Whether a server has the call now."""
        return self._attempt is not None

    @property
    def context(self) -> TraceContext | None:
        """The place of its span, if it is traced."""
        return None if self._trace is None else self._trace.context

    def state_changed(self) -> None:
        """See `WaitingCall.state_changed`."""
        if self._trace is not None:
            self._trace.state(self._waits().outlook.word)
        if self._said and self._comment() != self._said:
            self._beat()

    # Heartbeats

    def _comment(self) -> bytes:
        if self._attempt is None:
            return waiting_comment(self._waits().outlook)
        return working_comment(self._dispatcher.cold.get(self._attempt.server.endpoint))

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
        if self._trace is not None:
            self._trace.done(error.reason.name.lower(), attempt.status)
        self._bill.leave()
        self._credit.take_back()
        attempt.write_outcome(error.reason.name.lower(), self._status)
        self.last_error = error
        self._tried.append(attempt.server)
        if error.reason is Reason.UPSTREAM_UNREACHABLE:
            attempt.server.ready = False  # until it is heard to be well again
        request_id = self.request.header("x-request-id")
        said = "call %s: attempt %d at %s failed: %s"
        log.info(said, request_id, self.attempts, attempt.server.endpoint, error, extra=log_fields(self.context))
        if error.kind.elsewhere:
            if self._dispatcher.meter is not None:
                self._dispatcher.meter.retried(attempt.server.endpoint, error)
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
            self._attempt.hand_over(Misfit(self, self.request.operation, head, self._credit.lent))

    def last(self, event: bytes) -> None:
        """See `MisfitOwner.last`."""
        self._receiver.data(event)
        self.end()

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
        if credit.left <= credit.kept and self._attempt is not None:
            if credit.kept:
                # The server has used up what it was given, and no comment will be made any more.
                self._watchdog.pause(False)
                self._attempt.call.grant(credit.release())
            elif self._dispatcher.meter is not None:
                self._dispatcher.meter.stalled(self._attempt.server.endpoint)

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
            self._waits().give_up()
        else:
            self.fail(error)

    def _finish(self, outcome: str, status: int = 0) -> None:
        self._over = True
        self._watchdog.close()
        if self._its_wait is not None:
            self._its_wait.leave()
        attempt, self._attempt = self._attempt, None
        if self._trimmed is not None:
            self._bill.taken_out = self._trimmed.usage
        told = self._status or (EVENT_STREAM.status if self._said else status)
        self._bill.close(outcome, told, reached=attempt is not None)
        if attempt is not None:
            attempt.abandon()
            attempt.write_outcome(outcome, self._status)
        self._dispatcher.finished(self, outcome)
