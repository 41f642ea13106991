"""A thread for calls that block: one after another, as Globus's apps and clients are not for several threads."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from services.globus.errors import GlobusError, Kind

T = TypeVar("T")

_BOUND: Final = 256

_Work = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class CallThread:
    """Makes blocking calls for a loop, in order. A daemon: a call that hangs keeps no process from its end."""

    def __init__(self, name: str) -> None:
        self._work: queue.Queue[_Work | None] = queue.Queue(_BOUND)
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, function: Callable[[], T]) -> T:
        """What the function returns or raises. Whoever is cancelled here leaves, and the call itself goes on."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        try:
            self._work.put_nowait((function, answer, loop))
        except queue.Full:
            sentence = f"{_BOUND} questions to Globus Compute wait already."
            raise GlobusError(Kind.SERVICE_UNAVAILABLE, sentence) from None
        return await answer

    def close(self) -> None:
        """Ends the thread when the call that it makes now returns. What waits is not made."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._work.get_nowait()
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
