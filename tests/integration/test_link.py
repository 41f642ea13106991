"""The multiplexer over real sockets: what a `Link` does with a stream, its tasks and its clock."""

import asyncio
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from weft.inference.v1 import inference_pb2, inference_pb2_grpc
from weft.session.v1 import frame_pb2

from services.core.answers import collect
from services.core.errors import Reason
from services.core.inference import Call, Head, Receiver, Request
from services.rpc.channel import dial
from services.rpc.limits import MuxLimits
from services.rpc.link import Link, LinkTiming, MessageStream
from tests.testing.streams import Answer, Answerer, Events, Peer, request

IMPATIENT = LinkTiming(ping_interval=0.1, dead_after=0.4)


class Client(Link):
    """The calling end of a stream, carried by a task."""

    def __init__(self, address: str, timing: LinkTiming | None = None) -> None:
        self.events = Events()
        super().__init__(
            agent="client",
            message=inference_pb2.MultiplexRequest,
            events=self.events,
            timing=timing or LinkTiming(),
        )
        self.channel = dial(address)
        self.stream = inference_pb2_grpc.InferenceServiceStub(self.channel).Multiplex()
        self.running = asyncio.create_task(self.run(self.stream))

    def call(self, size: int = 2, credit: int = 1 << 20) -> tuple[Answer, Call]:
        """Opens a call with a body of that size."""
        answer = Answer()
        call = self.mux.open(request(b"x" * size), answer, credit)
        answer.opened = True
        return answer, call


@asynccontextmanager
async def connected(address: str, timing: LinkTiming | None = None) -> AsyncIterator[Client]:
    """A client that has heard the peer's hello; gone at the end, with every task of it."""
    client = Client(address, timing)
    try:
        await client.events.ready.wait()
        yield client
    finally:
        client.running.cancel()
        await asyncio.gather(client.running, return_exceptions=True)
        await client.channel.close()


class Mirror:
    """Answers with the body of the request, in pieces, as credit comes."""

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`."""
        reflection = Reflection(request.body, receiver)
        asyncio.get_running_loop().call_soon(reflection.begin, credit)
        return reflection


class Reflection:
    """One call of a mirror's."""

    def __init__(self, body: bytes, receiver: Receiver) -> None:
        self.body = body
        self.receiver = receiver
        self.over = False
        self.sent = 0
        self.pieces = random.Random(len(body))

    def begin(self, credit: int) -> None:
        """Sends the head, and what the credit allows."""
        if not self.over:
            self.receiver.head(Head(200, (("x-size", str(len(self.body))),)))
            self.grant(credit)

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        until = min(self.sent + credit, len(self.body))
        while self.sent < until:
            piece = self.body[self.sent : min(until, self.sent + self.pieces.randint(1, 20_000))]
            self.sent += len(piece)
            self.receiver.data(piece)
        if self.sent == len(self.body) and not self.over:
            self.over = True
            self.receiver.end()

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self.over = True


async def test_two_hundred_calls_of_any_size_are_intact() -> None:
    sizes = random.Random(5)
    bodies = [sizes.randbytes(sizes.choice([0, 100, 5000, 70_000, 400_000])) for _ in range(200)]
    async with Peer(Mirror()) as peer, connected(peer.address) as client:
        answers = await asyncio.gather(*[collect(client.mux, request(body)) for body in bodies])
        assert [body for _, body in answers] == bodies
        assert client.mux.open_calls == 0
        await client.settle()
        assert peer.links[0].mux.open_calls == 0


@asynccontextmanager
async def mute_process() -> AsyncIterator[tuple[Process, str]]:
    """A peer in a process of its own, and its address."""
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.testing.mute_peer", stdout=PIPE, cwd=root
    )
    try:
        assert process.stdout is not None
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("sign", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_peer_that_stops_or_dies_is_noticed_and_its_calls_end(sign: signal.Signals) -> None:
    async with mute_process() as (process, address), connected(address, IMPATIENT) as client:
        answers = [client.call()[0] for _ in range(20)]
        process.send_signal(sign)
        why = await client.running
        assert why.reason is Reason.WORKER_LOST
        assert [answer.reason for answer in answers] == [Reason.WORKER_LOST] * 20
        late, _ = client.call()
        await late.over.wait()
        assert late.reason is Reason.WORKER_LOST


class Heard:
    """A stream that notes the messages that come."""

    def __init__(self, stream: MessageStream, enough: int) -> None:
        self.write = stream.write
        self.enough = asyncio.Event()
        self._stream = stream
        self._missing = enough

    async def read(self) -> object:
        """See `MessageStream.read`."""
        message = await self._stream.read()
        self._missing -= 1
        if self._missing == 0:
            self.enough.set()
        return message


async def test_a_quiet_peer_that_lives_is_not_taken_for_dead() -> None:
    async with Peer(Answerer()) as peer, dial(peer.address) as channel:
        # Pongs alone, for longer than the silence after which a peer is dead.
        stream = Heard(inference_pb2_grpc.InferenceServiceStub(channel).Multiplex(), enough=8)
        link = Link(agent="client", message=inference_pb2.MultiplexRequest, events=Events(), timing=IMPATIENT)
        running = asyncio.create_task(link.run(stream))
        await stream.enough.wait()
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"early", b"late"], ids=["not protobuf", "early", "late"])
async def test_a_malformed_message_ends_its_own_stream_and_says_why(garbage: bytes) -> None:
    """The peer that sent it hears why; other streams of the same server go on."""
    early = frame_pb2.Frame(call=1, data=b"x")
    hello = frame_pb2.Frame(hello=frame_pb2.Hello(version=1))
    message = {
        b"early": inference_pb2.MultiplexRequest(frames=[early]).SerializeToString(),
        b"late": inference_pb2.MultiplexRequest(frames=[hello, early]).SerializeToString(),
    }.get(garbage, garbage)
    answerer = Answerer()
    async with Peer(answerer) as peer, connected(peer.address) as unharmed, dial(peer.address) as channel:
        answer, _ = unharmed.call()
        stream = channel.stream_stream(
            "/weft.inference.v1.InferenceService/Multiplex",
            response_deserializer=inference_pb2.MultiplexResponse.FromString,
        )()
        await stream.write(message)
        kinds = []
        while (heard := await stream.read()) is not grpc.aio.EOF:
            kinds += [(frame.WhichOneof("kind"), frame.error.reason) for frame in heard.frames]
        assert kinds == [("hello", 0), ("error", Reason.PROTOCOL_VIOLATION.value)]
        assert (await peer.ended.get()).reason is Reason.PROTOCOL_VIOLATION
        assert unharmed.mux.closed is None
        answerer.calls[0].head()
        answerer.calls[0].receiver.end()
        await answer.over.wait()
        assert answer.ends == [None]


async def test_an_answering_peer_that_breaks_the_protocol_hears_why() -> None:
    answerer = Answerer()
    async with Peer(answerer) as peer, connected(peer.address) as client:
        answer, _ = client.call(credit=1)
        await answerer.arrived.wait()
        answerer.calls[0].head()
        answerer.calls[0].data(b"too much")
        assert (await client.running).reason is Reason.PROTOCOL_VIOLATION
        assert (await peer.ended.get()).reason is Reason.PROTOCOL_VIOLATION
        assert answer.reason is Reason.PROTOCOL_VIOLATION
        assert answerer.calls[0].cancelled


async def test_a_client_that_ends_its_stream_cancels_its_calls() -> None:
    answerer = Answerer()
    async with Peer(answerer) as peer, connected(peer.address) as client:
        client.call()
        await answerer.arrived.wait()
        await client.stream.done_writing()
        await peer.ended.get()
        assert answerer.calls[0].cancelled
        assert (await client.running).reason is Reason.WORKER_LOST


async def test_a_server_that_stops_ends_the_calls() -> None:
    async with Peer(Answerer()) as peer, connected(peer.address) as client:
        answer, _ = client.call()
        await peer.stop(0)
        assert (await client.running).reason is Reason.WORKER_LOST
        assert answer.reason is Reason.WORKER_LOST


async def test_nothing_is_left_running() -> None:
    before = asyncio.all_tasks()
    async with Peer(Answerer()) as peer, connected(peer.address) as client:
        client.call()
        client.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.running
        await peer.ended.get()
    links = [task for task in asyncio.all_tasks() - before if "Link" in repr(task)]
    assert not links


class Tap:
    """Sends all that it is granted, at once and for ever."""

    def __init__(self) -> None:
        self.calls: list[Flow] = []
        self.full = asyncio.Event()

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`."""
        flow = Flow(self, receiver)
        self.calls.append(flow)
        asyncio.get_running_loop().call_soon(flow.begin, credit)
        return flow


class Flow:
    """One call of a tap's."""

    def __init__(self, tap: Tap, receiver: Receiver) -> None:
        self.tap = tap
        self.receiver = receiver
        self.cancelled = False

    def begin(self, credit: int) -> None:
        """Begins the answer."""
        if not self.cancelled:
            self.receiver.head(Head(200, ()))
            self.grant(credit)

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        if credit:
            self.receiver.data(bytes(credit))
        else:
            self.tap.full.set()

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self.cancelled = True


def openings(calls: range, credit: int) -> inference_pb2.MultiplexRequest:
    """A message that opens these calls."""
    opening = frame_pb2.Open(operation="/x", complete=True, credit=credit)
    return inference_pb2.MultiplexRequest(frames=[frame_pb2.Frame(call=call, open=opening) for call in calls])


HELLO = inference_pb2.MultiplexRequest(frames=[frame_pb2.Frame(hello=frame_pb2.Hello(version=1))])


async def test_a_peer_that_does_not_read_costs_no_more_memory_than_the_bound() -> None:
    limits = MuxLimits(outbox_soft=2_000_000)
    tap = Tap()
    async with Peer(tap, limits) as peer, dial(peer.address) as channel:
        stream = inference_pb2_grpc.InferenceServiceStub(channel).Multiplex()
        await stream.write(HELLO)
        for first in range(1, 2001, 10):  # 200 MB, if it came
            await stream.write(openings(range(first, first + 10), 100_000))
        await tap.full.wait()
        (link,) = peer.links
        assert link.mux._outbox.data_bytes < limits.outbox_soft + 2_000_000
        async with connected(peer.address) as other:
            answer, call = other.call(credit=5000)
            arrived = asyncio.Event()
            answer.on_data = lambda chunk: arrived.set()
            await arrived.wait()
            assert len(answer.body) <= 5000
            answer.left = True
            call.cancel()
        await peer.ended.get()
        assert link.mux.closed is None
        stream.cancel()
        await peer.ended.get()
        assert all(flow.cancelled for flow in tap.calls)


async def test_a_peer_that_does_not_read_loses_its_stream_beyond_the_hard_bound() -> None:
    answerer = Answerer()
    async with Peer(answerer, MuxLimits(outbox_hard=4_000_000)) as peer, dial(peer.address) as channel:
        stream = inference_pb2_grpc.InferenceServiceStub(channel).Multiplex()
        await stream.write(HELLO)
        await stream.write(openings(range(1, 101), 100_000))
        await answerer.arrived.wait()
        for served in answerer.calls:
            served.head()
            served.data(bytes(served.credit))
        assert (await peer.ended.get()).reason is Reason.PROTOCOL_VIOLATION
        assert all(served.cancelled for served in answerer.calls)
        assert peer.links[0].mux._outbox.data_bytes == 0
        stream.cancel()
