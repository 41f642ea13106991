"""A hosted service's stand-in: an aiohttp application on a thread of its own.

Of its own, because those who ask it may block the test's thread (the globus-sdk does), or be other processes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aiohttp import web


class HostedSite:
    """Serves from `with` to its end, at `url`. It counts requests by path in `requests`, and can be made to fail.

    `fail(prefix, status)` answers whatever begins with the prefix with the status, 0 closes the connection without an
    answer; `heal()` ends that. `hold(prefix)` lets requests wait until `release()`, `until_held(n)` waits until n do.
    """

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.failures: dict[str, int] = {}
        self.url = ""
        self._holds: dict[str, asyncio.Event] = {}
        self._held = threading.Semaphore(0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    def routes(self) -> list[web.AbstractRouteDef]:
        """What it answers."""
        raise NotImplementedError

    def start(self) -> None:
        """Serves on a free port."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    def stop(self) -> None:
        """Ends."""
        self.release()
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def fail(self, prefix: str, status: int) -> None:
        """An outage of what begins with the prefix."""
        self.failures[prefix] = status

    def heal(self) -> None:
        """All is well again."""
        self.failures.clear()

    def hold(self, prefix: str) -> None:
        """Requests wait from now on."""
        self._holds[prefix] = asyncio.Event()

    def release(self) -> None:
        """They wait no longer."""
        holds, self._holds = self._holds, {}
        for event in holds.values():
            self._loop.call_soon_threadsafe(event.set)

    def until_held(self, requests: int = 1, seconds: float = 20.0) -> None:
        """Blocks until so many more wait."""
        for _ in range(requests):
            assert self._held.acquire(timeout=seconds), "no request has come to wait"

    async def _serve(self) -> None:
        application = web.Application(middlewares=[self._meddle])
        application.add_routes(self.routes())
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    @web.middleware
    async def _meddle(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.requests[request.path] += 1
        for prefix, event in list(self._holds.items()):
            if _begins(request.path, prefix):
                self._held.release()
                await event.wait()
        for prefix, status in self.failures.items():
            if _begins(request.path, prefix):
                if not status:
                    assert request.transport is not None
                    request.transport.abort()
                    raise asyncio.CancelledError
                return web.json_response({"errors": [{"status": str(status), "code": "OUTAGE"}]}, status=status)
        return await handler(request)


def _begins(path: str, prefix: str) -> bool:
    return path == prefix[:-1] if prefix.endswith("$") else path.startswith(prefix)
