"""Calls as tasks: an `Inference` of which each call is one task, bounded in number, in size and in time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from services.core import tracing
from services.core.answers import ReadyAnswer
from services.core.deadlines import HOP, Bounds, Watchdog
from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Receiver, Request
from services.globus.errors import GlobusError
from services.launcher.bridge_messages import Answer, from_globus, from_result
from services.launcher.task_trace import TaskTrace

log = logging.getLogger(__name__)

MAX_BODY: Final = 10 * 1024 * 1024
"""Of a request; what is larger fits no task, and need not be taken in."""

_HELD: Final = 64 * 1024 * 1024
"""Bytes of answers that wait for slow callers; above it no task is begun."""


@dataclass(frozen=True, slots=True)
class TaskSlots:
    """`tasks` is how many run at once at one worker, as the endpoint's template has room for; `waiting` how many calls
    may wait for one of them here.
    """

    tasks: int = 8
    waiting: int = 16


class Runner(Protocol):
    """Runs one call as a task, to the function's result. Raises `GlobusError` or `ServiceError`."""

    def __call__(self, request: Request, *, timeout: float, wait: float, trace: TaskTrace | None) -> Awaitable[Any]:
        """`timeout` is for the whole answer, `wait` for a vLLM that still starts; in seconds. `trace` hears of the
        task, if the call is traced.
        """


class TaskInference:
    """One worker's calls. `endpoint` names it in errors.

    A task that was submitted cannot be called back: who leaves gives up the answer, and the task keeps its slot to its
    end.
    """

    def __init__(
        self,
        endpoint: str,
        run: Runner,
        *,
        slots: TaskSlots,
        bounds: Bounds,
        traced: Callable[[Request], TaskTrace | None] = lambda request: None,
    ) -> None:
        """`traced` gives what takes notes of a call, if anything does."""
        self.endpoint = endpoint
        self.traced = traced
        self.run = run
        self.bounds = bounds
        self._slots = slots
        self._waiting: deque[_TaskCall] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._held = 0
        self._closed = False

    @property
    def running(self) -> int:
        """Tasks under way, also those whose callers have left."""
        return len(self._running)

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`."""
        refusal = self._refusal(request)
        if refusal is not None:
            answer = ReadyAnswer(refusal, receiver, credit)
            asyncio.get_running_loop().call_soon(answer.tell)
            return answer
        call = _TaskCall(self, request, receiver, credit)
        self._waiting.append(call)
        self._begin()
        return call

    def close(self) -> None:
        """Ends the calls that are open. Their tasks go on at the endpoint."""
        self._closed = True
        for call in list(self._waiting):
            call.fail(ServiceError(Reason.SHUTTING_DOWN))
        for task in self._running:
            task.cancel()

    def leave_queue(self, call: _TaskCall) -> None:
        """A call that has not begun does not wait any longer."""
        if call in self._waiting:
            self._waiting.remove(call)

    def hold(self, size: int) -> None:
        """So many bytes more, or less, of answers wait for their callers."""
        self._held += size
        self._begin()

    def _refusal(self, request: Request) -> ServiceError | None:
        if self._closed:
            return ServiceError(Reason.SHUTTING_DOWN)
        if len(request.body) > MAX_BODY:
            size = f"{len(request.body) / 2**20:.1f} MiB"
            message = (
                f"Calls to '{self.endpoint}' travel as Globus tasks, which carry 10 MiB; this one's body is {size}."
            )
            return ServiceError(Reason.BODY_TOO_LARGE, message)
        if len(self._waiting) >= self._slots.waiting and not self._room():
            message = f"'{self.endpoint}' has {self.running} tasks under way and {len(self._waiting)} calls waiting."
            return ServiceError(
                Reason.OVERLOADED, f"{message[:-1]}, which is its limit; try again shortly.", retry_after=2
            )
        return None

    def _room(self) -> bool:
        return len(self._running) < self._slots.tasks and self._held < _HELD

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._room() and not self._closed:
            task = loop.create_task(self._waiting.popleft().work())
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._closed:
            self._begin()


class _TaskCall:
    """One call, from its opening to its answer's last byte."""

    def __init__(self, calls: TaskInference, request: Request, receiver: Receiver, credit: int) -> None:
        self._calls = calls
        self._request = request
        self._receiver: Receiver | None = receiver
        self._credit = credit
        self._answer: ReadyAnswer | None = None
        self._held = 0
        self._trace = calls.traced(request)
        bounds = calls.bounds.within(request.timeout, request.first_byte_timeout)
        self._watchdog = Watchdog(asyncio.get_running_loop(), bounds, self.fail)

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        if self._answer is None:
            self._credit += credit
        else:
            self._answer.grant(credit)

    def cancel(self) -> None:
        """See `Call.cancel`. The task, if it is submitted, goes on without us."""
        if self._close() is not None and self._trace is not None:
            self._trace.left()

    def fail(self, error: ServiceError) -> None:
        """Ends the call from this side."""
        receiver = self._close()
        if receiver is not None:
            if self._trace is not None:
                self._trace.failed(error)
            receiver.fail(error)

    async def work(self) -> None:
        """Runs the task, and tells its answer to whoever is still there."""
        if self._receiver is None:
            return
        # The function is the one to report, and has had some of our time taken by the way to it.
        timeout = max(self._watchdog.remaining - HOP, HOP)
        wait = max(min(self._watchdog.first_byte_remaining, timeout) - HOP, 0.0)
        request, calls, trace = self._request, self._calls, self._trace
        if trace is not None:
            tracing.current.set(trace.place)  # for the log
        try:
            told = await calls.run(request, timeout=timeout, wait=wait, trace=trace)
            if trace is not None:
                trace.result(told)
            result = from_result(told)
        except GlobusError as error:
            log.warning("a call's task failed: %s", error, extra={"endpoint": calls.endpoint})
            self.fail(from_globus(error, calls.endpoint))
        except ServiceError as error:
            self.fail(error)
        except asyncio.CancelledError:
            self.fail(ServiceError(Reason.SHUTTING_DOWN))
            raise
        except Exception:
            log.exception("an unexpected error ended a call")
            self.fail(ServiceError(Reason.INTERNAL))
        else:
            self._tell(result)

    def _tell(self, answer: Answer) -> None:
        if self._receiver is None:
            return
        if self._trace is not None:
            self._trace.answered(answer[0].status)
        self._held = len(answer[1])
        self._calls.hold(self._held)
        # From here on the caller sets the pace, and the total bound holds.
        self._watchdog.touch()
        self._watchdog.pause(True)
        self._answer = ReadyAnswer(answer, _Closing(self._receiver, self._close), self._credit)
        self._answer.tell()

    def _close(self) -> Receiver | None:
        """The call has ended; gives back who waited for it, the first time."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._watchdog.close()
            if self._answer is None:
                self._calls.leave_queue(self)
            else:
                self._answer.cancel()
                self._calls.hold(-self._held)
        return receiver


class _Closing:
    """A receiver that tells of the end."""

    def __init__(self, receiver: Receiver, closed: Callable[[], object]) -> None:
        self.head, self.data, self.fail = receiver.head, receiver.data, receiver.fail
        self._end = receiver.end
        self._closed = closed

    def end(self) -> None:
        """See `Receiver.end`."""
        self._closed()
        self._end()
