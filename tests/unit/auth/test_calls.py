"""Threads for calls that block."""

import asyncio
import threading

import pytest

from services.auth.calls import CallThreads
from services.core.errors import Reason, ServiceError


async def test_answers_and_errors_come_back() -> None:
    threads = CallThreads("test", 2, waiting=8)
    assert await threads.call(lambda: 7) == 7
    assert await threads.call(threading.current_thread) is not threading.current_thread()
    with pytest.raises(KeyError):
        await threads.call(lambda: dict[str, int]()["missing"])
    threads.close()


async def test_so_many_at_once_and_so_many_wait() -> None:
    threads = CallThreads("test", 1, waiting=1)
    began, go_on = threading.Event(), threading.Event()

    def hang() -> str:
        began.set()
        go_on.wait()
        return "done"

    first = asyncio.ensure_future(threads.call(hang))
    await asyncio.to_thread(began.wait)
    second = asyncio.ensure_future(threads.call(lambda: "second"))
    await asyncio.sleep(0)
    with pytest.raises(ServiceError) as caught:
        await threads.call(lambda: "third")
    assert caught.value.reason is Reason.AUTH_UNAVAILABLE
    # What waits is not made; what is under way goes on, and its end is awaited by nobody.
    threads.close()
    await asyncio.wait({second})
    assert second.cancelled()
    go_on.set()
    assert await first == "done"


async def test_whoever_leaves_disturbs_nobody() -> None:
    threads = CallThreads("test", 1, waiting=2)
    began, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        go_on.wait()

    leaver = asyncio.ensure_future(threads.call(hang))
    await asyncio.to_thread(began.wait)
    leaver.cancel()
    go_on.set()
    assert await threads.call(lambda: "next") == "next"
    threads.close()
