"""Calls over HTTP: bytes pass through, credit paces the reading, and leaving closes the connection, and vLLM stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import aiohttp

from services.core.deadlines import Bounds, Watchdog
from services.core.errors import Reason, ServiceError
from services.core.headers import TO_CLIENT, select, to_upstream
from services.core.inference import Call, Head, Receiver, Request

log = logging.getLogger(__name__)

UNIX = "unix:"


def open_session(url: str, *, connect_timeout: float = 5.0) -> aiohttp.ClientSession:
    """A pool of connections to a server, given as `http://host:port` or `unix:/path/to/socket`."""
    # uvicorn, which vLLM runs on, closes a connection that was idle for 5 s. Letting go of it well before avoids
    # writing a request into a connection that is just being closed.
    if url.startswith(UNIX):
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(url.removeprefix(UNIX), limit=0, keepalive_timeout=2.0)
    else:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
    )


def base_of(url: str) -> str:
    """What to put before a path."""
    return "http://localhost" if url.startswith(UNIX) else url.rstrip("/")


_STALE_TELLS: Final = 1.0
"""Seconds within which a connection that had died shows it. Later it is the server that has died, at work on this very
call, which is the router's to try elsewhere and not to be computed here twice.
"""


class HttpInference:
    """A server that speaks OpenAI's HTTP API. `what` names it in errors; `api_key`, if given, is asked at each call."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        what: str,
        bounds: Bounds,
        api_key: Callable[[], str] | None = None,
    ) -> None:
        self.session = session
        self.base = base_of(url)
        self.what = what
        self.bounds = bounds
        self.api_key = api_key
        self._exchanges: set[_Exchange] = set()

    @property
    def open_calls(self) -> int:
        """Calls that are open now."""
        return len(self._exchanges)

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`."""
        exchange = _Exchange(self, request, receiver, credit)
        self._exchanges.add(exchange)
        exchange.task.add_done_callback(lambda _: self._exchanges.discard(exchange))
        return exchange

    async def close(self) -> None:
        """Ends the calls that are open, and closes the connections."""
        self.end_calls(ServiceError(Reason.SHUTTING_DOWN))
        await self.retire()

    def end_calls(self, error: ServiceError) -> None:
        """Ends the calls that are open with an error."""
        for exchange in list(self._exchanges):
            exchange.fail(error)

    async def retire(self) -> None:
        """Lets the calls that are open finish, within their bounds, and closes the connections."""
        while self._exchanges:
            await asyncio.gather(*(exchange.task for exchange in self._exchanges), return_exceptions=True)
        await self.session.close()


class _Exchange:
    """One call: a task that reads as fast as it is granted."""

    def __init__(self, server: HttpInference, request: Request, receiver: Receiver, credit: int) -> None:
        loop = asyncio.get_running_loop()
        self._server = server
        self._request = request
        self._receiver: Receiver | None = receiver
        self._credit = credit
        self._granted = asyncio.Event()
        self._received = 0
        bounds = server.bounds.within(request.timeout, request.first_byte_timeout)
        self._watchdog = Watchdog(loop, bounds, self.fail)
        self.task = loop.create_task(self._run())

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        self._credit += credit
        self._granted.set()

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._receiver = None
        self._watchdog.close()
        self.task.cancel()

    def fail(self, error: ServiceError) -> None:
        """Ends the call from this side."""
        receiver, self._receiver = self._receiver, None
        self._watchdog.close()
        self.task.cancel()
        if receiver is not None:
            receiver.fail(error)

    async def _run(self) -> None:
        what = self._server.what
        try:
            await self._exchange()
        except ServiceError as error:
            self.fail(error)
        except aiohttp.ClientConnectorError as error:
            self.fail(
                ServiceError(Reason.UPSTREAM_UNREACHABLE, f"{what} cannot be reached: {error.strerror or error}.")
            )
        except aiohttp.ConnectionTimeoutError:
            self.fail(ServiceError(Reason.UPSTREAM_UNREACHABLE, f"{what} cannot be reached: it does not answer."))
        except (aiohttp.ClientError, OSError) as error:
            log.warning("%s broke off its answer: %s", what, error)
            message = f"{what} broke off its answer after {self._received} bytes."
            self.fail(ServiceError(Reason.UPSTREAM_BROKEN, message))
        except Exception:
            log.exception("an unexpected error ended a call")
            self.fail(ServiceError(Reason.INTERNAL))

    async def _exchange(self) -> None:
        async with await self._send() as response:
            assert self._receiver is not None
            if response.status == 401 and self._server.api_key is not None:
                # The caller's own key is good; told of ours as it stands, he would look for the fault with himself.
                log.error("%s refuses the key that we have for it", self._server.what)
                raise ServiceError(Reason.UPSTREAM_UNREACHABLE, f"{self._server.what} refuses the router's key.")
            headers = tuple([(name.lower(), value) for name, value in response.headers.items()])
            self._receiver.head(Head(response.status, select(headers, TO_CLIENT)))
            content = response.content
            while chunk := await content.readany():
                self._received += len(chunk)
                self._watchdog.touch()
                await self._deliver(chunk)
        receiver, self._receiver = self._receiver, None
        self._watchdog.close()
        if receiver is not None:
            receiver.end()

    async def _send(self) -> aiohttp.ClientResponse:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self._request_once()
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if loop.time() - began > _STALE_TELLS:
                raise
            # A pooled connection may have died unnoticed (vLLM closes some after an error); a fresh one tells.
            return await self._request_once()

    async def _request_once(self) -> aiohttp.ClientResponse:
        request, server = self._request, self._server
        headers = dict(to_upstream(request))
        if server.api_key is not None:
            headers["authorization"] = f"Bearer {server.api_key()}"
        return await server.session.request(
            request.method,
            server.base + request.operation,
            data=request.body or None,
            headers=headers,
            skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
            allow_redirects=False,
        )

    async def _deliver(self, chunk: bytes) -> None:
        """Hands a chunk on, in pieces as the credit allows."""
        while len(chunk) > self._credit:
            self._granted.clear()  # before the piece, for which the receiver may grant anew at once
            if self._credit > 0:
                piece, chunk = chunk[: self._credit], chunk[self._credit :]
                self._hand_on(piece)
            self._watchdog.pause(True)
            await self._granted.wait()
            self._watchdog.pause(False)
        self._hand_on(chunk)

    def _hand_on(self, piece: bytes) -> None:
        self._credit -= len(piece)
        if self._receiver is not None:
            self._receiver.data(piece)
