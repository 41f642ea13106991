"""Threads for calls that block, so that none is made on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from services.core.errors import Reason, ServiceError

T = TypeVar("T")

_Work = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]

BUSY: Final = "Too many new callers wait to be judged at present; try again shortly."


class CallThreads:
    """So many threads, and a bounded queue before them. Daemons, unlike a ThreadPoolExecutor's: a call that hangs keeps
    no process from its end.
    """

    def __init__(self, name: str, threads: int, *, waiting: int) -> None:
        self._work: queue.Queue[_Work | None] = queue.Queue(waiting)
        self._threads = threads
        for number in range(threads):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    async def call(self, function: Callable[[], T]) -> T:
        """What the function returns or raises. Whoever is cancelled here leaves, and the call itself goes on. Raises
        AUTH_UNAVAILABLE if too many wait already.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        try:
            self._work.put_nowait((function, answer, loop))
        except queue.Full:
            raise ServiceError(Reason.AUTH_UNAVAILABLE, BUSY, retry_after=1.0) from None
        return await answer

    def close(self) -> None:
        """Ends each thread when the call that it makes now returns. What waits is not made."""
        with contextlib.suppress(queue.Empty):
            while True:
                work = self._work.get_nowait()
                if work is not None:
                    work[1].cancel()
        for _ in range(self._threads):
            with contextlib.suppress(queue.Full):
                self._work.put_nowait(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            function, answer, loop = work
            try:
                result, error = function(), None
            except BaseException as raised:  # whatever it is, it is the caller's
                result, error = None, raised
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(_settle, answer, result, error)


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
