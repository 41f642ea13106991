"""Runs registered functions at Globus Compute endpoints, for an asyncio process.

A task that was submitted is never cancelled: Globus has no way to, and the SDK's Executor stops over a future that was.
Its result comes by the Executor's stream; where that is lost, or has been silent for long, the service is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import msgspec
from globus_compute_sdk import Client
from globus_compute_sdk.errors import TaskExecutionFailed

from services.globus.call_thread import CallThread
from services.globus.control import Control, EndpointStatus
from services.globus.errors import GlobusError, Kind, explain
from services.globus.executors import ExecutorKey, GlobusExecutor, Seat, Seats, TaskExecutor
from services.globus.inquiry import TaskState, ask
from services.globus.serializer import ENVELOPE, check_size

log = logging.getLogger(__name__)

T = TypeVar("T")

_SMALL: Final = 80 * 1024
_BATCH: Final = 128
"""Tasks that are submitted together: 128 of 80 KiB stay within the 10 MiB of one submission. Larger ones go alone."""
_ATTEMPTS: Final = 3
_AT_ONCE: Final = 10


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """`executors` is how many are open at once. In seconds: `idle` until one without a task is closed, `look` between
    two rounds of asking about tasks whose results' stream was lost, `quiet` until a task is asked for although its
    stream seems well, and then again.
    """

    executors: int = 64
    idle: float = 600.0
    look: float = 5.0
    quiet: float = 60.0


@dataclass(eq=False, slots=True)
class _Flight:
    """One task, from being asked for to its answer."""

    key: ExecutorKey
    payload: Mapping[str, Any]
    submitted: Callable[[str], None]
    happened: Callable[[str], None]
    answer: asyncio.Future[Any]
    future: Future[Any] | None = None
    seat: Seat | None = None
    task_id: str = ""
    lost_at: float | None = None
    attempts: int = 0
    looked_at: float = 0.0


class ExecutorFactory(Protocol):
    """Makes an Executor; the functions are called from its threads."""

    def __call__(
        self,
        client: Client,
        endpoint_uuid: str,
        config: Mapping[str, Any],
        *,
        batch: int,
        submitted: Callable[[], None],
        ended: Callable[[], None],
    ) -> TaskExecutor:
        """The Executor. Does not block."""


class Tasks:
    """Runs tasks, and asks about them. `client` makes the client of credentials by their name; it may block, and is
    called once for each.
    """

    def __init__(
        self,
        client: Callable[[str], Client],
        *,
        limits: TaskLimits | None = None,
        executor: ExecutorFactory = GlobusExecutor,
    ) -> None:
        self._make_client = client
        self._limits = limits or TaskLimits()
        self._make_executor = executor
        self._loop = asyncio.get_running_loop()
        self._threads: dict[str, CallThread] = {}
        self._clients: dict[str, Client] = {}
        self._seats = Seats(self._limits.executors)
        self._flights: set[_Flight] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._closed = False
        self._trouble = ""
        self._looking = self._loop.create_task(self._look_again(), name="globus tasks")

    @property
    def in_flight(self) -> int:
        """Tasks whose answer is not there yet."""
        return len(self._flights)

    async def run(
        self,
        credentials: str,
        endpoint_uuid: str,
        function_uuid: str,
        payload: Mapping[str, Any],
        user_endpoint_config: Mapping[str, Any] | None = None,
        submitted: Callable[[str], None] = lambda task_id: None,
        happened: Callable[[str], None] = lambda what: None,
    ) -> Any:
        """What the function returns. `submitted` is called with the task's id once it has one; `happened` with what
        goes wrong and does not end it: a submission that is made again, results whose stream is lost. Raises
        `GlobusError`.

        Whoever is cancelled here leaves; the task itself goes on.
        """
        config = user_endpoint_config or {}
        size = check_size(payload, config)
        text = msgspec.json.encode(config, order="deterministic").decode()
        key = ExecutorKey(credentials, endpoint_uuid, function_uuid, text, size - ENVELOPE > _SMALL)
        flight = _Flight(key, payload, submitted, happened, self._loop.create_future())
        flight.answer.add_done_callback(_heard)
        if self._closed:
            raise _closing()
        self._flights.add(flight)
        self._fly(flight)
        return await flight.answer  # Not the SDK's future, which leaving would cancel.

    async def allowed_functions(self, credentials: str, endpoint_uuid: str) -> frozenset[str] | None:
        """The functions that an endpoint allows; None if it allows all. Raises `GlobusError`."""
        return await self._ask(credentials, lambda client: Control(client).allowed_functions(endpoint_uuid))

    async def endpoint_status(self, credentials: str, endpoint_uuid: str) -> EndpointStatus:
        """How an endpoint is. Raises `GlobusError`."""
        return await self._ask(credentials, lambda client: Control(client).status(endpoint_uuid))

    async def task_state(self, credentials: str, task_id: str) -> TaskState:
        """How a task is that was submitted by whomever. Raises `GlobusError` if that cannot be found out."""
        states = await self._ask(credentials, lambda client: ask(client, [task_id]))
        return states[task_id]

    async def close(self, patience: float = 2.0) -> None:
        """Ends everything here within `patience` seconds. Tasks under way go on at their endpoints, and whoever waits
        for one is told so.
        """
        self._closed = True
        self._looking.cancel()
        for flight in list(self._flights):
            self._land(flight, _closing())
        work = [self._looking, *self._work]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        ends = self._seats.abandon_all()
        for thread in self._threads.values():
            thread.close()
        last = CallThread("globus close")
        await last.call(lambda: _join(ends, patience))
        last.close()

    # From asking to flying

    def _fly(self, flight: _Flight) -> None:
        task = self._loop.create_task(self._submit(flight))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _submit(self, flight: _Flight) -> None:
        try:
            client = await self._client(flight.key.credentials)
            seat = self._seat(flight.key, client)
        except Exception as error:
            self._land(flight, explain(error))
            return
        try:
            future = seat.executor.submit_to_registered_function(flight.key.function_uuid, (flight.payload,))
        except RuntimeError:  # a failed submit has shut it a moment ago
            self._seats.shut(seat)
            self._again(flight)
            return
        except Exception as error:
            self._land(flight, explain(error))
            return
        flight.future, flight.seat = future, seat
        seat.used_at = flight.looked_at = self._loop.time()
        seat.flights.add(flight)
        future.add_done_callback(lambda done: self._soon(partial(self._landed, flight, done)))

    def _seat(self, key: ExecutorKey, client: Client) -> Seat:
        if (seat := self._seats.get(key)) is None:
            made: list[Seat] = []  # the hooks may be called before there is a seat
            executor = self._make_executor(
                client,
                key.endpoint_uuid,
                msgspec.json.decode(key.config),
                batch=1 if key.large else _BATCH,
                submitted=lambda: self._soon(lambda: self._submitted(made[0])),
                ended=lambda: self._soon(lambda: self._ended(made[0])),
            )
            seat = Seat(key, executor)
            made.append(seat)
            self._seats.add(seat)
        return seat

    # What the Executors say

    def _soon(self, function: Callable[[], None]) -> None:
        """Has the loop call it; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(function)

    def _submitted(self, seat: Seat) -> None:
        for flight in list(seat.flights):
            self._note_task(flight)

    def _note_task(self, flight: _Flight) -> None:
        task_id = getattr(flight.future, "task_id", None)
        if task_id and not flight.task_id:
            flight.task_id = str(task_id)
            flight.submitted(flight.task_id)

    def _ended(self, seat: Seat) -> None:
        """It takes no more. What it had taken and not submitted goes by another."""
        self._seats.shut(seat)
        for flight in list(seat.flights):
            self._note_task(flight)
            if not flight.task_id and flight.future is not None and not flight.future.done():
                self._again(flight)
        self._seats.landed(seat)

    def _landed(self, flight: _Flight, future: Future[Any]) -> None:
        if flight not in self._flights or flight.future is not future:
            return
        self._note_task(flight)
        if future.cancelled():
            self._lose(flight) if flight.task_id else self._again(flight)
            return
        error = future.exception()
        if error is None:
            self._land(flight, None, future.result())
        elif flight.task_id and not isinstance(error, TaskExecutionFailed):
            log.warning("the results' stream was lost; task %s is asked for instead: %s", flight.task_id, error)
            self._lose(flight)
        else:
            self._land(flight, explain(error))

    def _again(self, flight: _Flight) -> None:
        self._leave_seat(flight)
        flight.attempts += 1
        flight.happened("not submitted")
        if flight.attempts >= _ATTEMPTS:
            sentence = "The task could not be submitted, as other submissions failed at the same time."
            self._land(flight, GlobusError(Kind.SERVICE_UNAVAILABLE, sentence))
        elif not self._closed:
            self._fly(flight)

    def _lose(self, flight: _Flight) -> None:
        self._leave_seat(flight)
        flight.happened("results' stream lost")
        flight.lost_at = self._loop.time()

    def _leave_seat(self, flight: _Flight) -> None:
        seat, flight.seat, flight.future = flight.seat, None, None
        if seat is not None:
            seat.flights.discard(flight)
            seat.used_at = self._loop.time()
            self._seats.landed(seat)

    def _land(self, flight: _Flight, error: GlobusError | None, result: Any = None) -> None:
        self._flights.discard(flight)
        self._leave_seat(flight)
        if flight.answer.done():
            return
        if error is None:
            flight.answer.set_result(result)
        else:
            flight.answer.set_exception(error)

    # Asking the service

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._limits.look)
            await self.look()

    async def look(self) -> None:
        """Asks the service for the tasks that are due, and closes idle Executors. A task whose caller has left is
        forgotten: at an endpoint that is offline for long it may never end, and its result is for nobody.
        """
        for flight in [flight for flight in self._flights if flight.task_id and flight.answer.cancelled()]:
            self._land(flight, None)
        now = self._loop.time()
        self._seats.close_idle(now - self._limits.idle)
        due: dict[str, dict[str, _Flight]] = {}
        for flight in self._flights:
            if flight.task_id and now - flight.looked_at >= self._pause(flight, now):
                flight.looked_at = now
                due.setdefault(flight.key.credentials, {})[flight.task_id] = flight
        await asyncio.gather(*(self._inquire(credentials, flights) for credentials, flights in due.items()))

    def _pause(self, flight: _Flight, now: float) -> float:
        """Seconds between two questions. Of a task whose stream is lost, more and more: one of days is in no hurry, and
        there may be hundreds.
        """
        quiet = self._limits.quiet
        return quiet if flight.lost_at is None else min(max(now - flight.lost_at - quiet, 0.0) / 10, quiet)

    async def _inquire(self, credentials: str, flights: Mapping[str, _Flight]) -> None:
        asked = list(flights)
        for first in range(0, len(asked), _AT_ONCE):  # in turns: others have questions too, for the same thread
            some = asked[first : first + _AT_ONCE]
            try:
                states = await self._ask(credentials, partial(ask, task_ids=some))
            except GlobusError as error:
                if self._trouble != (said := str(error)):  # once, however long it is away
                    log.warning("%d tasks under way could not be asked for: %s", len(flights), said)
                self._trouble = said
                return
            self._trouble = ""
            for task_id, state in states.items():
                if not state.pending and flights[task_id] in self._flights:
                    self._land(flights[task_id], state.error, state.result)

    async def _ask(self, credentials: str, question: Callable[[Client], T]) -> T:
        client = await self._client(credentials)
        try:
            return await self._thread(credentials).call(lambda: question(client))
        except Exception as error:
            raise explain(error) from error

    async def _client(self, credentials: str) -> Client:
        if self._closed:
            raise _closing()
        if (client := self._clients.get(credentials)) is None:
            try:
                client = await self._thread(credentials).call(lambda: self._client_of(credentials))
            except Exception as error:
                raise explain(error) from error
        return client

    def _client_of(self, credentials: str) -> Client:
        # In the credentials' own thread, so that many who wait for the first have one made.
        if (client := self._clients.get(credentials)) is None:
            client = self._clients[credentials] = self._make_client(credentials)
        return client

    def _thread(self, credentials: str) -> CallThread:
        if (thread := self._threads.get(credentials)) is None:
            thread = self._threads[credentials] = CallThread(f"globus {credentials}")
        return thread


def _closing() -> GlobusError:
    sentence = "The launcher is shutting down; the task, if it was submitted, goes on at its endpoint."
    return GlobusError(Kind.OTHER, sentence, "")


def _heard(answer: asyncio.Future[Any]) -> None:
    """Takes note of an error that nobody waits for."""
    if not answer.cancelled():
        answer.exception()


def _join(threads: list[threading.Thread], patience: float) -> None:
    """Waits for threads, but no longer than that in all."""
    until = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
