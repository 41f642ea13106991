"""The facade's connection to its router: one multiplexed stream, dialled again whenever it ends."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import random
from typing import Final

from weft.inference.v1 import inference_pb2, inference_pb2_grpc
from weft.session.v1 import frame_pb2

from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Head, Receiver, Request
from services.rpc.link import Link
from services.rpc.mux import Mux
from services.rpc.outgoing import OutgoingCall
from services.rpc.server import check_health
from services.rpc.wire import PLAIN, Wire

log = logging.getLogger(__name__)

AGENT: Final = f"weft-facade/{importlib.metadata.version('weft')}"
_ROUTER: Final = "weft.inference.v1.InferenceService"
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


class RouterLink:
    """The router as an `Inference`. Calls wait up to `patience` seconds for a router that is away, as in a restart; so
    do those that crossed the news that it takes no more.
    """

    def __init__(self, address: str, *, patience: float, wire: Wire = PLAIN) -> None:
        self._address = address
        self._patience = patience
        self._channel = wire.dial(address, "router")
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._waiting: dict[_RoutedCall, None] = {}  # in the order of their coming

    async def run(self) -> None:
        """Keeps the stream, until cancelled."""
        pause = _FIRST_PAUSE
        stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        while True:
            link = Link(
                agent=AGENT,
                message=inference_pb2.MultiplexRequest,
                events=_RouterEvents(self),
                lost=Reason.ROUTER_UNAVAILABLE,
            )
            stream = stub.Multiplex()
            self._link = link
            try:
                why = await link.run(stream)
            finally:
                self._up.clear()
                stream.cancel()
            pause = _FIRST_PAUSE if link.mux.peer is not None else min(pause * 2, _LONGEST_PAUSE)
            log.warning("the router at %s is away, dialling again in %.2f s: %s", self._address, pause, why)
            await asyncio.sleep(random.uniform(pause / 2, pause))

    def came_up(self) -> None:
        """The router has introduced itself."""
        log.info("connected to the router at %s", self._address)
        self._up.set()
        for call in list(self._waiting):
            call.go()

    def went_draining(self) -> None:
        """The router takes no more calls; its successor will."""
        self._up.clear()

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`."""
        call = _RoutedCall(self, request, receiver, credit)
        if self.mux is not None:
            call.go()
        else:
            call.wait()
        return call

    @property
    def mux(self) -> Mux | None:
        """The stream to a router that takes calls, if there is one."""
        # Between the stream's end and the news of it in `run`, a call would be refused instead of waiting.
        if self._link is not None and self._up.is_set() and self._link.mux.closed is None:
            return self._link.mux
        return None

    async def ready(self) -> bool:
        """Whether the router is there and says that it is ready."""
        return self._up.is_set() and await check_health(self._channel, _ROUTER, timeout=2.0)

    async def close(self) -> None:
        """Lets go of the channel; `run` has been cancelled before."""
        for call in list(self._waiting):
            call.give_up()
        await self._channel.close()


class _RouterEvents:
    """What the router says outside any call."""

    def __init__(self, owner: RouterLink) -> None:
        self._owner = owner

    def hello(self, hello: frame_pb2.Hello) -> None:
        """It is there."""
        self._owner.came_up()

    def drain(self) -> None:
        """It is shutting down."""
        self._owner.went_draining()

    def report(self, report: frame_pb2.Report) -> None:
        """Only workers report."""

    def stop(self, stop: frame_pb2.Stop) -> None:
        """Only workers are stopped."""


class _RoutedCall:
    """A call to the router: it waits for one that is away, and for the successor of one that has not begun it. Once its
    answer has a head, its receiver hears the rest directly.
    """

    __slots__ = ("_call", "_credit", "_owner", "_receiver", "_request", "_timer")

    def __init__(self, owner: RouterLink, request: Request, receiver: Receiver, credit: int) -> None:
        self._owner = owner
        self._request = request
        self._receiver = receiver
        self._credit = credit
        self._call: Call | None = None
        self._timer: asyncio.TimerHandle | None = None

    def go(self) -> None:
        """The router is there."""
        self._stop_waiting()
        mux = self._owner.mux
        assert mux is not None
        self._call = mux.open(self._request, self, self._credit)

    def wait(self) -> None:
        """The router is away."""
        self._timer = asyncio.get_running_loop().call_later(self._owner._patience, self.give_up)
        self._owner._waiting[self] = None

    def give_up(self) -> None:
        """It did not come in time."""
        self._stop_waiting()
        message = f"The router at {self._owner._address} cannot be reached; try again shortly."
        self._receiver.fail(ServiceError(Reason.ROUTER_UNAVAILABLE, message, retry_after=1.0))

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            del self._owner._waiting[self]

    # Call

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        self._credit += credit
        if self._call is not None:
            self._call.grant(credit)

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._stop_waiting()
        if self._call is not None:
            self._call.cancel()

    # Receiver, up to the head

    def head(self, head: Head) -> None:
        """See `Receiver.head`."""
        if isinstance(self._call, OutgoingCall):
            self._call.hand_over(self._receiver)
        self._receiver.head(head)

    def data(self, chunk: bytes) -> None:
        """See `Receiver.data`."""
        self._receiver.data(chunk)

    def end(self) -> None:
        """See `Receiver.end`."""
        self._receiver.end()

    def fail(self, error: ServiceError) -> None:
        """See `Receiver.fail`. A router that shuts down, and says when to come again, has not begun the call."""
        if error.reason is Reason.SHUTTING_DOWN and error.retry_after is not None and self._owner.mux is None:
            self._call = None
            self.wait()
            return
        if error.reason is Reason.ROUTER_UNAVAILABLE:  # its stream was lost under the call
            error = ServiceError(error.reason, error.message, retry_after=1.0)
        self._receiver.fail(error)
