"""The SDK's Executor, as far as a long-lived process may lean on it, and the few of them that are open at once.

What it has to be helped with (4.19, each seen with the real one):

* It takes the task group of the last Executor made, be that another identity's: each has one of its own here.
* Any failed submit shuts it for good, and futures that were gathered for the next one are never resolved: `ended`.
* A future gets its task's id without a word: `submitted`.
* After four submits in sixteen seconds it sleeps: its burst limit is lifted (the constructor's argument stops at 8).
* Its watcher of results looks twice a second, and keeps the process from ending while one result is outstanding.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, Protocol

from globus_compute_sdk import Client, Executor
from globus_compute_sdk.sdk.executor import _REGISTERED_EXECUTORS, _RESULT_WATCHERS, _ResultWatcher
from globus_compute_sdk.serialize import JSONData

from services.globus.serializer import JsonSerializer

_BURST: Final = 1000
_RESULT_POLL: Final = 0.05


class ExecutorKey(NamedTuple):
    """What tasks have in common that go by one Executor.

    The function is a part of it, as one that is not allowed fails all that are submitted with it; and so is the size,
    as large ones, sent together, would be too large. `config` is the user endpoint's configuration as JSON.
    """

    credentials: str
    endpoint_uuid: str
    function_uuid: str
    config: str
    large: bool


class TaskExecutor(Protocol):
    """What this process uses of an Executor."""

    def submit_to_registered_function(self, function_id: str, args: tuple[Any, ...]) -> Future[Any]:
        """Takes a task on; RuntimeError if it is shut. Does not block."""

    def abandon(self) -> None:
        """Ends its threads. Futures that are open end as cancelled; their tasks go on. Blocks."""


class GlobusExecutor(Executor):
    """An Executor with the hooks. `submitted` and `ended` are called from its threads: after each submission, and when
    it takes no more.
    """

    def __init__(
        self,
        client: Client,
        endpoint_uuid: str,
        config: Mapping[str, Any],
        *,
        batch: int,
        submitted: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self._tell_submitted = submitted
        self._tell_ended = ended
        self._abandoned = False
        super().__init__(
            endpoint_id=endpoint_uuid,
            client=client,
            user_endpoint_config=dict(config) or None,
            batch_size=batch,
            serializer=JsonSerializer(),
            result_serializers=[JSONData()],  # type: ignore[no-untyped-call]
        )
        self.task_group_id = None
        self.api_burst_limit = _BURST

    def abandon(self) -> None:
        """See `TaskExecutor.abandon`."""
        self._abandoned = True
        self.shutdown(wait=False, cancel_futures=True)  # type: ignore[no-untyped-call]
        self._end_watcher()

    def _submit_tasks(self, *args: Any, **kwargs: Any) -> None:
        super()._submit_tasks(*args, **kwargs)
        self._tell_submitted()

    def _task_submitter_impl(self) -> None:
        try:
            super()._task_submitter_impl()
        finally:
            _REGISTERED_EXECUTORS.pop(id(self), None)  # after a failed submit the SDK would keep it for ever
            if self._abandoned:
                self._end_watcher()  # a submission that was under way may have begun a new one
            self._tell_ended()

    def _get_result_watcher(self) -> _ResultWatcher:
        watcher = _RESULT_WATCHERS.get(self.task_group_id)
        if watcher is None or not watcher.is_alive():
            watcher = _ResultWatcher(self.task_group_id, self.client, poll_period_s=_RESULT_POLL, port=self.amqp_port)
            watcher.daemon = True
            watcher.start()
        return watcher

    def _end_watcher(self) -> None:
        # Out of the SDK's hands first: at the process's end it waits for every watcher that it knows.
        watcher = _RESULT_WATCHERS.pop(self.task_group_id, None)
        if watcher is not None:
            # It takes the futures out before it cancels them; cancelled while they are in, they would stop the others.
            watcher.shutdown(wait=False, cancel_futures=True)  # type: ignore[no-untyped-call]


class Seat:
    """An Executor, and what flies by it: anything that is counted as in flight there."""

    def __init__(self, key: ExecutorKey, executor: TaskExecutor) -> None:
        self.key = key
        self.executor = executor
        self.flights: set[Any] = set()
        self.used_at = 0.0


class Seats:
    """The open Executors: `bound` of them, beyond which the longest unused goes, an idle one first."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._open: OrderedDict[ExecutorKey, Seat] = OrderedDict()
        self._shut: set[Seat] = set()

    def __len__(self) -> int:
        return len(self._open) + len(self._shut)

    def get(self, key: ExecutorKey) -> Seat | None:
        """The one for the key, if there is one."""
        if (seat := self._open.get(key)) is not None:
            self._open.move_to_end(key)
        return seat

    def add(self, seat: Seat) -> None:
        """Takes one in, in another's place if there are too many."""
        while len(self._open) >= self._bound:
            self.abandon(next((old for old in self._open.values() if not old.flights), next(iter(self._open.values()))))
        self._open[seat.key] = seat

    def shut(self, seat: Seat) -> None:
        """It takes no more: the next task gets a new one. It goes itself when its last task has ended."""
        if self._open.get(seat.key) is seat:
            del self._open[seat.key]
            self._shut.add(seat)
            self.landed(seat)

    def landed(self, seat: Seat) -> None:
        """One of its tasks has ended."""
        if seat in self._shut and not seat.flights:
            self.abandon(seat)

    def close_idle(self, before: float) -> None:
        """Ends those without a task that were last used before that time."""
        for seat in list(self._open.values()):
            if not seat.flights and seat.used_at < before:
                self.abandon(seat)

    def abandon(self, seat: Seat) -> threading.Thread:
        """Ends it, in a thread that is given back."""
        if self._open.get(seat.key) is seat:
            del self._open[seat.key]
        self._shut.discard(seat)
        thread = threading.Thread(target=_abandon, args=(seat.executor,), name="globus executor's end", daemon=True)
        thread.start()
        return thread

    def abandon_all(self) -> list[threading.Thread]:
        """Ends all."""
        return [self.abandon(seat) for seat in (*self._open.values(), *self._shut)]


def _abandon(executor: TaskExecutor) -> None:
    with contextlib.suppress(Exception):  # it goes in any case
        executor.abandon()
