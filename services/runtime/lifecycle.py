"""The life of a process that serves: signals, readiness, an ordered stop, an exit code.

By the standard library alone: the worker lives by this too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable

from services.core.errors import ServiceError
from services.runtime.process import Process
from services.runtime.readiness import Announcer

log = logging.getLogger(__name__)

Serve = Callable[[Process], Awaitable[None]]
"""A service with its configuration given."""

SLACK = 5.0
"""Seconds beyond the grace in which a service must have stopped; then its process ends all the same."""

EXPLAINED: tuple[type[Exception], ...] = (ServiceError, OSError)
"""Errors whose message tells the operator all; any other is a fault of ours, and its traceback is logged."""


def run(
    name: str,
    serve: Serve,
    announcer: Announcer,
    process: Process,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    explained: tuple[type[Exception], ...] = EXPLAINED,
) -> int:
    """Serves until SIGTERM or SIGINT, or until the service ends by itself, and gives the process's exit code.

    The first signal sets `process.stopping`, the second ends the process at once.
    """
    with announcer, asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_live(name, serve, announcer, process, explained))


async def _live(
    name: str, serve: Serve, announcer: Announcer, process: Process, explained: tuple[type[Exception], ...]
) -> int:
    _stop_on_signals(announcer, process)
    serving = asyncio.ensure_future(serve(process))
    stopping = asyncio.ensure_future(process.stopping.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await asyncio.wait({serving}, timeout=process.grace + SLACK)
    if not serving.done():
        log.critical("%s did not stop within %g s, and was ended", name, process.grace + SLACK)
        _end_now(announcer, 1)
    error = serving.exception()
    if error is None:
        return 0
    unexplained = None if isinstance(error, explained) else error
    log.critical("%s failed: %s", name, error or type(error).__name__, exc_info=unexplained)
    return 1


def _stop_on_signals(announcer: Announcer, process: Process) -> None:
    def on_signal(number: signal.Signals) -> None:
        if process.stopping.is_set():
            _end_now(announcer, 128 + number)
        log.info("stopping", extra={"signal": number.name})
        process.stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _end_now(announcer: Announcer, code: int) -> None:
    announcer.withdraw()
    os._exit(code)
