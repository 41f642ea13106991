"""A channel whose certificate can be renewed: gRPC binds credentials to a channel for its life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

from services.rpc.certificate import Material


class ReloadingChannel(grpc.aio.Channel):
    """A channel that takes calls by the present certificate. When that has changed, the next call opens a new
    connection; calls that are open end on the one that they began on, which then closes. A long stream therefore stays
    on its connection until it ends.
    """

    def __init__(self, current: Callable[[], Material], dial: Callable[[Material], grpc.aio.Channel]) -> None:
        self._current = current
        self._dial = dial
        material = current()
        self._connection = _Connection(material, dial(material))
        self._closing: set[asyncio.Task[None]] = set()
        self._retired: set[_Connection] = set()
        self._closed = False

    @property
    def retired(self) -> int:
        """Connections by earlier certificates, on which calls are open."""
        return len(self._retired)

    def connection(self) -> _Connection:
        """The one for a call that begins now."""
        material = self._current()
        if material is not self._connection.material:
            self._retire(self._connection)
            self._connection = _Connection(material, self._dial(material))
        return self._connection

    def _retire(self, connection: _Connection) -> None:
        self._retired.add(connection)
        connection.when_idle(lambda: self._end(connection))

    def _end(self, connection: _Connection) -> None:
        if self._closed:
            return
        self._retired.discard(connection)
        task = asyncio.get_running_loop().create_task(connection.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # grpc.aio.Channel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Ends all connections, with the calls that are still open after `grace` seconds."""
        self._closed = True
        connections = [self._connection, *self._retired]
        await asyncio.gather(*(connection.channel.close(grace) for connection in connections), *self._closing)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the connection for new calls."""
        return self.connection().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the connection for new calls."""
        await self.connection().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Of the connection for new calls."""
        await self.connection().channel.channel_ready()

    def unary_unary(self, *how: Any, **more: Any) -> Any:
        """See `grpc.aio.Channel.unary_unary`."""
        return _Method(self, "unary_unary", how, more)

    def unary_stream(self, *how: Any, **more: Any) -> Any:
        """See `grpc.aio.Channel.unary_stream`."""
        return _Method(self, "unary_stream", how, more)

    def stream_unary(self, *how: Any, **more: Any) -> Any:
        """See `grpc.aio.Channel.stream_unary`."""
        return _Method(self, "stream_unary", how, more)

    def stream_stream(self, *how: Any, **more: Any) -> Any:
        """See `grpc.aio.Channel.stream_stream`."""
        return _Method(self, "stream_stream", how, more)


class _Connection:
    """A channel by one certificate, and how many calls are open on it."""

    def __init__(self, material: Material, channel: grpc.aio.Channel) -> None:
        self.material = material
        self.channel = channel
        self._open = 0
        self._idle: Callable[[], None] | None = None

    def call(self, start: Callable[..., Any], args: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        """Starts a call."""
        call = start(*args, **settings)
        self._open += 1
        call.add_done_callback(self._ended)
        return call

    def when_idle(self, idle: Callable[[], None]) -> None:
        """Calls back once no call is open. None is started after this."""
        if self._open:
            self._idle = idle
        else:
            idle()

    def _ended(self, call: Any) -> None:
        self._open -= 1
        if not self._open and self._idle is not None:
            self._idle()


class _Method:
    """One method of a stub, on whichever connection is the present one."""

    def __init__(self, owner: ReloadingChannel, kind: str, how: tuple[Any, ...], more: dict[str, Any]) -> None:
        self._owner = owner
        self._kind = kind
        self._how = how
        self._more = more
        self._connection: _Connection | None = None
        self._start: Callable[..., Any] = self

    def __call__(self, *args: Any, **settings: Any) -> Any:
        connection = self._owner.connection()
        if connection is not self._connection:
            self._start = getattr(connection.channel, self._kind)(*self._how, **self._more)
            self._connection = connection
        return connection.call(self._start, args, settings)
