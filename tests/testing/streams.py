"""Both ends of a multiplexed stream in the hands of a test: fakes for who calls and who answers, and a wire between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import grpc
from weft.inference.v1 import inference_pb2
from weft.session.v1 import frame_pb2, span_pb2

from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Head, Inference, Receiver, Request
from services.rpc.channel import SERVER_OPTIONS
from services.rpc.limits import DEFAULT_LIMITS, MuxLimits
from services.rpc.link import Link
from services.rpc.mux import Mux


class Answer:
    """A receiver that keeps all it hears, and refuses what the protocol of `Receiver` forbids."""

    def __init__(self) -> None:
        self.opened = False
        self.left = False
        self.heads: list[Head] = []
        self.body = bytearray()
        self.ends: list[ServiceError | None] = []
        self.over = asyncio.Event()
        self.on_data: Callable[[bytes], None] = lambda chunk: None

    @property
    def error(self) -> ServiceError | None:
        """The error that it ended with."""
        return self.ends[0] if self.ends else None

    @property
    def reason(self) -> Reason | None:
        """Why it failed."""
        return None if self.error is None else self.error.reason

    def head(self, head: Head) -> None:
        """See `Receiver.head`."""
        self._allow()
        assert not self.heads, "a second head"
        self.heads.append(head)

    def data(self, chunk: bytes) -> None:
        """See `Receiver.data`."""
        self._allow()
        assert self.heads, "data before the head"
        self.body += chunk
        self.on_data(chunk)

    def end(self) -> None:
        """See `Receiver.end`."""
        self._allow()
        assert self.heads, "an end before the head"
        self._finish(None)

    def fail(self, error: ServiceError) -> None:
        """See `Receiver.fail`."""
        self._allow()
        self._finish(error)

    def _allow(self) -> None:
        assert self.opened, "called before open returned"
        assert not self.left, "called after cancel"
        assert not self.ends, "called after the end"

    def _finish(self, error: ServiceError | None) -> None:
        self.ends.append(error)
        self.over.set()


@dataclass(slots=True)
class Served:
    """A call as the one who answers it sees it."""

    request: Request
    receiver: Receiver
    credit: int
    cancelled: bool = False
    answered: bool = False
    sent: bytearray = field(default_factory=bytearray)

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        assert not self.cancelled, "granted after cancel"
        self.credit += credit

    def cancel(self) -> None:
        """See `Call.cancel`."""
        assert not self.cancelled, "cancelled twice"
        self.cancelled = True

    def head(self, status: int = 200) -> None:
        """Begins the answer."""
        self.answered = True
        self.receiver.head(Head(status, (("content-type", "text/plain"),)))

    def data(self, chunk: bytes) -> None:
        """Sends a piece of the answer, within the credit or not."""
        self.credit -= len(chunk)
        self.sent += chunk
        self.receiver.data(chunk)


class Answerer:
    """An `Inference` whose calls the test answers itself."""

    def __init__(self) -> None:
        self.calls: list[Served] = []
        self.arrived = asyncio.Event()

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`."""
        self.calls.append(Served(request, receiver, credit))
        self.arrived.set()
        return self.calls[-1]


class Events:
    """Keeps what happens outside any call."""

    def __init__(self) -> None:
        self.hellos: list[frame_pb2.Hello] = []
        self.reports: list[frame_pb2.Report] = []
        self.stops: list[frame_pb2.Stop] = []
        self.drains = 0
        self.ready = asyncio.Event()

    def hello(self, hello: frame_pb2.Hello) -> None:
        """See `SessionEvents.hello`."""
        self.hellos.append(hello)
        self.ready.set()

    def drain(self) -> None:
        """See `SessionEvents.drain`."""
        self.drains += 1

    def report(self, report: frame_pb2.Report) -> None:
        """See `SessionEvents.report`."""
        self.reports.append(report)

    def stop(self, stop: frame_pb2.Stop) -> None:
        """See `SessionEvents.stop`."""
        self.stops.append(stop)


class End:
    """A `Mux`, and the messages on their way to it: `send` encodes one, `deliver` decodes one at the other end."""

    def __init__(
        self,
        serves: Inference | None = None,
        limits: MuxLimits = DEFAULT_LIMITS,
        take_spans: Callable[[span_pb2.Spans], None] | None = None,
    ) -> None:
        self.events = Events()
        self.deferred: deque[Callable[[], None]] = deque()
        self.arriving: deque[bytes] = deque()
        self.wakes = 0
        self.mux = Mux(
            agent="test",
            wake=self._wake,
            defer=self.deferred.append,
            events=self.events,
            serves=serves,
            limits=limits,
            take_spans=take_spans,
        )

    def _wake(self) -> None:
        self.wakes += 1

    def call(self, request: Request, credit: int = 1 << 20) -> tuple[Answer, Call]:
        """Opens a call."""
        answer = Answer()
        call = self.mux.open(request, answer, credit)
        answer.opened = True
        return answer, call

    def take(self) -> list[frame_pb2.Frame]:
        """The frames of the next message."""
        message = inference_pb2.MultiplexRequest()
        self.mux.take(message.frames)
        return list(message.frames)

    def send(self, peer: End) -> None:
        """Puts the next message on its way to the peer."""
        frames = self.take()
        if frames:
            peer.arriving.append(inference_pb2.MultiplexRequest(frames=frames).SerializeToString())

    def deliver(self) -> None:
        """Takes in the oldest message that is on its way here."""
        self.mux.receive(inference_pb2.MultiplexRequest.FromString(self.arriving.popleft()).frames)

    def receive(self, *frames: frame_pb2.Frame) -> None:
        """Takes in one message of these frames, as they look after the wire."""
        self.arriving.append(inference_pb2.MultiplexRequest(frames=frames).SerializeToString())
        self.deliver()

    def run_deferred(self) -> None:
        """Runs what was put off."""
        while self.deferred:
            self.deferred.popleft()()


def settle(*ends: End) -> None:
    """Carries messages between two ends until neither has any left."""
    one, other = ends
    while True:
        for end in ends:
            end.run_deferred()
            if end.arriving:
                end.deliver()
        one.send(other)
        other.send(one)
        if not any(end.arriving or end.deferred or end.mux.pending for end in ends):
            return


def connect(limits: MuxLimits = DEFAULT_LIMITS) -> tuple[End, End, Answerer]:
    """A calling end, an answering end, and who answers; they have introduced themselves."""
    answerer = Answerer()
    client, server = End(), End(answerer, limits)
    settle(client, server)
    return client, server, answerer


def request(body: bytes = b"{}", operation: str = "/v1/chat/completions") -> Request:
    """A request with a header."""
    return Request(operation, (("content-type", "application/json"),), body)


def assert_forgotten(*ends: End) -> None:
    """Nothing of any call is left at an end."""
    for end in ends:
        mux = end.mux
        assert mux.open_calls == 0
        assert not mux.pending
        assert mux._outbox.data_bytes == 0
        if mux._incoming is not None:
            assert not mux._incoming.withheld
            assert mux._incoming.buffered_bodies == 0


class Peer:
    """A gRPC server on loopback whose Multiplex stream is carried by a `Link`: who answers calls."""

    def __init__(self, serves: Inference, limits: MuxLimits = DEFAULT_LIMITS) -> None:
        self.serves = serves
        self.limits = limits
        self.links: list[Link] = []
        self.ended: asyncio.Queue[ServiceError] = asyncio.Queue()
        self.address = ""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._multiplex,
            request_deserializer=inference_pb2.MultiplexRequest.FromString,
            response_serializer=inference_pb2.MultiplexResponse.SerializeToString,
        )
        service = "weft.inference.v1.InferenceService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Multiplex": handler}),))

    async def _multiplex(self, _: object, context: grpc.aio.ServicerContext[object, object]) -> None:
        link = Link(
            agent="peer",
            message=inference_pb2.MultiplexResponse,
            events=Events(),
            serves=self.serves,
            limits=self.limits,
        )
        self.links.append(link)
        try:
            await link.run(context)
        finally:
            assert link.mux.closed is not None
            self.ended.put_nowait(link.mux.closed)

    async def __aenter__(self) -> Self:
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def stop(self, grace: float) -> None:
        """Stops the server."""
        await self._server.stop(grace)
