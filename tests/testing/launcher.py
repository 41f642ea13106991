"""A launcher in the hands of a test: a real gRPC server, which starts nothing and says what the test has it say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from weft.launcher.v1 import launcher_pb2, launcher_pb2_grpc

from services.rpc.channel import SERVER_OPTIONS, credential_of
from tests.testing.processes import SOON, HeldPort

_SIGN_OF_LIFE = 5.0

Context = grpc.aio.ServicerContext[Any, Any]


class FakeLauncher(launcher_pb2_grpc.LauncherServiceServicer):
    """Keeps what it is told in `wants`: the endpoint and the calls that wait, in order. `credentials` are those that it
    was shown, `asked` the clusters whose queue was asked for.
    """

    def __init__(self) -> None:
        self.wants: list[tuple[str, int]] = []
        self.credentials: set[str] = set()
        self.asked: list[str] = []
        self.queue: launcher_pb2.GetQueueResponse | None = None
        self._port = HeldPort()
        self._states: dict[str, launcher_pb2.EndpointState] = {}
        self._watchers: set[asyncio.Queue[launcher_pb2.EndpointState]] = set()
        self._wanted = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """Where it listens, also while it does not."""
        return f"127.0.0.1:{self._port.port}"

    async def start(self) -> None:
        """Listens."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        launcher_pb2_grpc.add_LauncherServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Is away."""
        if self._server is not None:
            await self._server.stop(grace=0)
            self._server = None

    async def close(self) -> None:
        """Ends for good."""
        await self.stop()
        self._port.close()

    @property
    def watched(self) -> int:
        """How many routers watch."""
        return len(self._watchers)

    def tell(self, endpoint: str, state: str, detail: str = "", **more: Any) -> None:
        """Has the endpoint in another state: `queued`, `starting` and so on."""
        value = launcher_pb2.StartState.Value(f"START_STATE_{state.upper()}")
        self._states[endpoint] = launcher_pb2.EndpointState(endpoint=endpoint, state=value, detail=detail, **more)
        for watcher in self._watchers:
            watcher.put_nowait(self._states[endpoint])

    async def until_wanted(self, endpoint: str, waiting: int) -> None:
        """Waits until so many calls are said to wait."""
        try:
            async with asyncio.timeout(SOON):
                while (endpoint, waiting) not in self.wants:
                    self._wanted.clear()
                    await self._wanted.wait()
        except TimeoutError:
            pytest.fail(f"not within {SOON:g} s: {waiting} calls want {endpoint}; said was {self.wants}")

    async def Want(self, request: launcher_pb2.WantRequest, context: Context) -> launcher_pb2.WantResponse:  # noqa: N802
        """See the proto."""
        self.credentials.add(credential_of(context.invocation_metadata()) or "")
        self.wants.append((request.endpoint, request.waiting))
        self._wanted.set()
        state = self._states.get(request.endpoint) or launcher_pb2.EndpointState(endpoint=request.endpoint)
        return launcher_pb2.WantResponse(state=state)

    async def Watch(  # noqa: N802
        self, request: launcher_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[launcher_pb2.WatchResponse]:
        """See the proto."""
        changes: asyncio.Queue[launcher_pb2.EndpointState] = asyncio.Queue()
        self._watchers.add(changes)
        try:
            yield launcher_pb2.WatchResponse(endpoints=self._states.values())
            while True:
                try:
                    state = await asyncio.wait_for(changes.get(), _SIGN_OF_LIFE)
                    yield launcher_pb2.WatchResponse(endpoints=[state])
                except TimeoutError:
                    yield launcher_pb2.WatchResponse()
        finally:
            self._watchers.discard(changes)

    async def GetQueue(  # noqa: N802
        self, request: launcher_pb2.GetQueueRequest, context: Context
    ) -> launcher_pb2.GetQueueResponse:
        """See the proto."""
        self.asked.append(request.cluster)
        if self.queue is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "its queue function does not answer")
        return self.queue
