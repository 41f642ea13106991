"""One call on its way through the router: attempts at servers until one gives the first byte, then bytes pass through.

This is the one layer that retries. Until the first byte of the body nothing has been promised to the client, so that a
failed attempt moves to another server; after it, a failure ends the call with an error, for an answer continued
elsewhere would not be one answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from services.core.deadlines import Bounds, Scheduler, Timer, Watchdog
from services.core.errors import Reason, ServiceError
from services.core.inference import Head, Receiver, Request
from services.router.attempt import Attempt
from services.router.body import Wanted, rename_model
from services.router.plan import FULL, Plan, Policy, plan
from services.router.roster import Roster
from services.router.targets import Server, Target

log = logging.getLogger(__name__)

_ANSWER_TOKENS: Final = 256
"""What a call without a bound is reckoned to generate, for comparing loads."""

_MOST_TOKENS: Final = 1 << 20
"""What one call is reckoned to cost at most: a client that asks for 10^18 tokens is not to make a server look busy."""


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """How hard the router tries. Durations are in seconds."""

    bounds: Bounds
    max_attempts: int
    wait_for_worker: float
    max_waiting: int


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Starts calls."""

    roster: Roster
    policy: Policy
    settings: DispatchSettings
    scheduler: Scheduler
    finished: Callable[[DispatchedCall, str], None]


class DispatchedCall:
    """A call that is authorised: a `Call` towards the client, looking for a server that answers it.

    `outcome` is told to the dispatcher at the end: `ok`, `cancelled`, or the reason of the error.
    """

    def __init__(
        self, dispatcher: Dispatcher, request: Request, wanted: Wanted, model: str, receiver: Receiver, credit: int
    ) -> None:
        self.request = request
        self.model = model
        self.attempts = 0
        self.status = 0
        self.started = dispatcher.scheduler.time()
        self.first_byte_at: float | None = None
        self._dispatcher = dispatcher
        self._wanted = wanted
        self._receiver = receiver
        self._credit = credit
        self._attempt: Attempt | None = None
        self._tried: list[Server] = []
        self._waiting: Timer | None = None
        self._planned = Plan((), ())
        self._waited_until = self.started + dispatcher.settings.wait_for_worker
        self._last_error: ServiceError | None = None
        self._over = False
        bounds = dispatcher.settings.bounds.within(request.timeout, request.first_byte_timeout)
        self._watchdog = Watchdog(dispatcher.scheduler, bounds, self._expire)

    # Call

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        self._credit += credit
        if self._attempt is not None:
            self._watchdog.pause(False)
            self._attempt.call.grant(credit)

    def cancel(self) -> None:
        """See `Call.cancel`."""
        if not self._over:
            self._finish("cancelled")

    # Attempts

    def next_attempt(self) -> None:
        """Tries the best server that was not tried yet; waits for one if there is none, or gives up."""
        if self._over:
            return  # The client left between the opening of the call and this first step.
        request, dispatcher = self.request, self._dispatcher
        targets = dispatcher.roster.find(self.model, request.cluster, request.framework)
        if targets is None and dispatcher.roster.settled:
            self.fail(unknown_model(self.model))
            return
        self._planned = planned = plan(targets or (), policy=dispatcher.policy, tried=self._tried)
        if self.attempts >= dispatcher.settings.max_attempts:
            self.fail(self._last_error or ServiceError(Reason.NO_WORKER))
        elif planned.candidates:
            self._try(planned.candidates[0], alternatives=len(planned.candidates) > 1)
        else:
            self._wait()

    def _try(self, target: Target, *, alternatives: bool) -> None:
        self._stop_waiting()
        try:
            request = self._request_for(target)
        except ServiceError as error:
            self.fail(error)
            return
        self.attempts += 1
        may_move = alternatives and self.attempts < self._dispatcher.settings.max_attempts
        self._attempt = Attempt(self, target.server, may_move=may_move, cost=self._cost())
        self._attempt.call = target.server.inference.open(request, self._attempt, self._credit)

    def _request_for(self, target: Target) -> Request:
        request = self.request
        renamed = target.served_model != (self._wanted.model or target.served_model)
        return msgspec.structs.replace(
            request,
            body=rename_model(request.body, target.served_model) if renamed else request.body,
            timeout=max(0.1, self._watchdog.remaining),
            first_byte_timeout=max(0.1, self._watchdog.first_byte_remaining),
            cluster="",
            framework="",
        )

    def _cost(self) -> int:
        # Four bytes a token is the usual reckoning for English; it only has to compare calls with each other.
        return len(self.request.body) // 4 + min(self._wanted.max_tokens or _ANSWER_TOKENS, _MOST_TOKENS)

    def _wait(self) -> None:
        """Waits for a worker to come, or to come back, as during a restart."""
        dispatcher = self._dispatcher
        scheduler, roster = dispatcher.scheduler, dispatcher.roster
        late = scheduler.time() >= self._waited_until
        if late or self._planned.closed or roster.waiting >= dispatcher.settings.max_waiting:
            self._give_up()
            return
        self._tried.clear()
        if self._waiting is None:
            self._waiting = scheduler.call_at(self._waited_until, self._give_up)
        roster.wait(self.next_attempt, self.model, self.request.cluster, self.request.framework)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        reasons = [reason for _, reason in self._planned.left_out]
        if self._last_error is not None:
            self.fail(self._last_error)
        elif self._planned.closed:
            self.fail(ServiceError(Reason.CLUSTER_MAINTENANCE, self._planned.closed))
        elif FULL in reasons:
            message = f"Every worker of '{self.model}' has as many calls as it takes; try again shortly."
            self.fail(ServiceError(Reason.OVERLOADED, message, retry_after=1.0))
        elif not reasons and self._dispatcher.roster.find(self.model) is None:
            self.fail(unknown_model(self.model))
        else:
            message = f"No worker serves '{self.model}' at present; try again shortly."
            self.fail(ServiceError(Reason.NO_WORKER, message, retry_after=5.0))

    def attempt_failed(self, attempt: Attempt, error: ServiceError) -> None:
        """An attempt failed before its first byte."""
        self._attempt = None
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
        self.status = head.status
        self.first_byte_at = self._dispatcher.scheduler.time()
        self._receiver.head(head)

    def data(self, chunk: bytes) -> None:
        """Bytes pass through."""
        self._watchdog.touch()
        self._credit -= len(chunk)
        if self._credit <= 0:
            self._watchdog.pause(True)
        self._receiver.data(chunk)

    def end(self) -> None:
        """The answer is whole."""
        self._attempt = None
        self._finish("ok")
        self._receiver.end()

    def fail(self, error: ServiceError) -> None:
        """The answer will not be whole."""
        if not self._over:
            self._finish(error.reason.name.lower())
            self._receiver.fail(error)

    def _expire(self, error: ServiceError) -> None:
        if error.reason is Reason.FIRST_BYTE_TIMEOUT and self._attempt is None:
            error = ServiceError(Reason.NO_WORKER, f"No worker serves '{self.model}' at present.", retry_after=5.0)
        self.fail(error)

    def _finish(self, outcome: str) -> None:
        self._over = True
        self._watchdog.close()
        self._stop_waiting()
        self._dispatcher.roster.leave(self.next_attempt)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.abandon()
        self._dispatcher.finished(self, outcome)


def unknown_model(model: str) -> ServiceError:
    """What vLLM says of a model that it does not have."""
    return ServiceError(Reason.MODEL_NOT_FOUND, f"The model `{model}` does not exist.", param="model")
