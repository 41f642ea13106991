"""Gives a `Mux` its stream, its tasks and its clock: reads, writes in few messages, and notices a dead peer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError
from weft.session.v1 import span_pb2

from services.core.errors import Reason, ServiceError
from services.core.inference import Inference
from services.rpc.errors import from_rpc_error
from services.rpc.limits import DEFAULT_LIMITS, MuxLimits, ProtocolViolationError
from services.rpc.mux import Mux, SessionEvents

log = logging.getLogger(__name__)


class MessageStream(Protocol):
    """A bidirectional gRPC stream, from either side: grpc.aio's call objects and servicer contexts."""

    async def read(self) -> Any:
        """The next message; `grpc.aio.EOF` at the end."""

    async def write(self, message: Any) -> None:
        """Sends a message."""


@dataclass(frozen=True, slots=True)
class LinkTiming:
    """In seconds.

    A gRPC message costs some 100 µs at each end whatever it holds, so under load messages are kept apart, and frames
    gather in between: `flush_per_call` for each call that is open, `flush_longest` at most, and nothing while at most
    `eager_calls` are open. A frame that comes later than that after the last message goes out at once.

    `ping_interval`: after so long without a sign of life from the peer it is asked for one. `dead_after`: after so long
    without one it is taken for dead. Well above a second: a starved machine is not a dead one.
    """

    flush_per_call: float = 0.000_05
    flush_longest: float = 0.004
    eager_calls: int = 8
    ping_interval: float = 2.0
    dead_after: float = 6.0

    def apart(self, open_calls: int) -> float:
        """How far messages are kept apart."""
        return min(self.flush_longest, open_calls * self.flush_per_call) if open_calls > self.eager_calls else 0.0


DEFAULT_TIMING: Final = LinkTiming()

_FAREWELL: Final = 1.0
"""Seconds that the last message, which says why the stream ends, may take."""

_BROKEN: Final = (asyncio.InvalidStateError, grpc.aio.InternalError, grpc.aio.UsageError)
"""What grpc.aio raises, beside RpcError, from a stream that is gone."""


class Link:
    """One end of a multiplexed stream, alive: `mux` is ready at once, and `run` carries it until the stream ends."""

    def __init__(
        self,
        *,
        agent: str,
        message: type[Any],
        events: SessionEvents,
        serves: Inference | None = None,
        limits: MuxLimits = DEFAULT_LIMITS,
        timing: LinkTiming = DEFAULT_TIMING,
        lost: Reason = Reason.WORKER_LOST,
        take_spans: Callable[[span_pb2.Spans], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._message = message
        self._timing = timing
        self._lost = lost
        self._woken = asyncio.Event()
        self._last_read = 0.0
        self._writing = False
        self._moved = asyncio.Event()
        self.mux = Mux(
            agent=agent,
            wake=self._woken.set,
            defer=self._loop.call_soon,
            events=events,
            serves=serves,
            limits=limits,
            take_spans=take_spans,
        )

    @property
    def idle(self) -> bool:
        """Whether no call is open and every frame has been written."""
        return not (self.mux.open_calls or self.mux.pending or self._writing)

    async def settle(self) -> None:
        """Waits until the link is idle, or its stream is gone."""
        while not self.idle and self.mux.closed is None:
            self._moved.clear()
            await self._moved.wait()

    async def run(self, stream: MessageStream) -> ServiceError:
        """Carries frames until either end has had enough; returns why. Every open call has then been ended."""
        self._last_read = self._loop.time()
        reader = self._loop.create_task(self._read(stream))
        writer = self._loop.create_task(self._write(stream))
        watch = self._loop.create_task(self._watch())
        why = ServiceError(self._lost)
        try:
            done, _ = await asyncio.wait((reader, writer, watch), return_when=asyncio.FIRST_COMPLETED)
            why = next(iter(done)).result()
        except grpc.RpcError as error:
            why = from_rpc_error(error, unavailable=self._lost)
            if why.reason is Reason.INTERNAL:  # grpc.aio's word for a write to a stream that has just gone
                why = ServiceError(self._lost)
        except _BROKEN:
            pass  # `why` says so already.
        finally:
            self.mux.close(why)
            self._moved.set()
            await asyncio.wait((writer,), timeout=_FAREWELL)
            for task in (reader, writer, watch):
                task.cancel()
            await asyncio.gather(reader, writer, watch, return_exceptions=True)
        return self.mux.closed or why

    async def _read(self, stream: MessageStream) -> ServiceError:
        mux = self.mux
        try:
            while (message := await stream.read()) is not grpc.aio.EOF:
                self._last_read = self._loop.time()
                mux.receive(message.frames)
                self._moved.set()
                if mux.closed is not None:
                    return mux.closed
        except (ProtocolViolationError, DecodeError) as violation:
            log.warning("a peer broke the session protocol: %s", violation)
            error = ServiceError(Reason.PROTOCOL_VIOLATION, f"The peer broke the session protocol: {violation}.")
            mux.tell_why(error)
            return error
        return ServiceError(self._lost)

    async def _write(self, stream: MessageStream) -> ServiceError:
        mux, woken, timing = self.mux, self._woken, self._timing
        last = 0.0
        closing = False
        while not closing:  # The last message comes after the close, and says why.
            await woken.wait()
            early = last + timing.apart(mux.open_calls) - self._loop.time()
            if early > 0 and mux.closed is None:
                await asyncio.sleep(early)
            woken.clear()
            closing = mux.closed is not None
            last = self._loop.time()
            message = self._message()
            mux.take(message.frames)
            if mux.pending:
                woken.set()
            if message.frames:
                self._writing = True
                await stream.write(message)
                self._writing = False
                self._moved.set()
        return mux.closed or ServiceError(self._lost)

    async def _watch(self) -> ServiceError:
        timing = self._timing
        tick = timing.ping_interval / 2
        nonce = 0
        while self.mux.closed is None:  # It may close while the writer waits for a peer that does not read.
            before = self._loop.time()
            await asyncio.sleep(tick)
            # Time that this process itself was not given, on a starved machine, says nothing about the peer.
            self._last_read += max(0.0, self._loop.time() - before - 2 * tick)
            silence = self._loop.time() - self._last_read
            if silence >= timing.dead_after:
                return ServiceError(self._lost, f"The peer gave no sign of life for {silence:.0f} s.")
            if silence >= timing.ping_interval:
                nonce += 1
                self.mux.ping(nonce)
        return self.mux.closed
