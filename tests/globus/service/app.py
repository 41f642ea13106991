"""The emulated service as a web application."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web

from tests.globus.service.amqp import Broker, BrokerAwayError
from tests.globus.service.auth import Auth
from tests.globus.service.control import PREFIX, Control
from tests.globus.service.endpoints import Endpoints
from tests.globus.service.errors import RefusedError, refusal
from tests.globus.service.faults import Faults
from tests.globus.service.functions import Functions
from tests.globus.service.state import State
from tests.globus.service.tasks import MOST_BYTES, Tasks

VERSIONS = {"api": "1.49.0", "min_sdk_version": "2.0.0", "min_ep_version": "2.0.0"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """All parts, put together."""

    def __init__(self, state_file: Path, amqp_url: str) -> None:
        self._state = State(state_file)
        self._faults = Faults()
        self._requests: Counter[str] = Counter()
        auth = Auth(self._state)
        self.broker = Broker(
            amqp_url,
            {"results": lambda body: tasks.received(body), "heartbeats": lambda body: tasks.heartbeat(body)},
        )
        functions = Functions(self._state, auth)
        endpoints = Endpoints(self._state, auth, self.broker, self._faults)
        tasks = Tasks(self._state, auth, self.broker, functions, endpoints, self._faults)
        control = Control(self._state, auth, tasks, self._faults, self._requests)
        # Larger bodies are to reach the route, which refuses them as the real service does.
        self.app = web.Application(middlewares=[self._edge], client_max_size=8 * MOST_BYTES)
        for part in (auth, functions, endpoints, tasks, control):
            self.app.add_routes(part.routes())
        self.app.router.add_get("/v2/version", _version)
        self.app.cleanup_ctx.append(self._connected)

    @web.middleware
    async def _edge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Counts requests, lets faults happen, and gives errors their form."""
        if not request.path.startswith(PREFIX):
            resource = request.match_info.route.resource
            self._requests[f"{request.method} {resource.canonical if resource else request.path}"] += 1
            if (fault := await self._faults.happen(request)) is not None:
                return fault
        try:
            return await handler(request)
        except RefusedError as error:
            return refusal(error.status, error.code, error.reason)
        except BrokerAwayError as error:
            return refusal(503, "SERVICE_UNAVAILABLE", f"The message broker is away: {error}")

    async def _connected(self, app: web.Application) -> AsyncIterator[None]:
        """Holds the connection to RabbitMQ while the application runs, and ends the state with it."""
        connection = asyncio.create_task(self.broker.run())
        yield
        connection.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await connection
        self._state.close()


async def _version(request: web.Request) -> web.Response:
    if request.query.get("service") == "all":
        return web.json_response(VERSIONS)
    return web.json_response(VERSIONS["api"])
