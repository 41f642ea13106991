"""Spans that wait in a worker for a router: in order, in bounds, and sent to whoever takes them."""

from __future__ import annotations

import asyncio

from weft.session.v1 import span_pb2

from services.core.tracing import Span, new_root
from services.worker import span_relay
from services.worker.span_relay import SpanRelay

SOON = 20.0


class Router:
    """Takes `room` frames."""

    def __init__(self, *, takes_spans: bool = True, room: int = 100) -> None:
        self.takes_spans = takes_spans
        self.room = room
        self.frames: list[span_pb2.Spans] = []
        self.sent = asyncio.Event()

    def send_spans(self, spans: span_pb2.Spans) -> bool:
        if len(self.frames) >= self.room:
            return False
        self.frames.append(spans)
        self.sent.set()
        return True

    @property
    def names(self) -> list[str]:
        return [span.name for frame in self.frames for span in frame.spans]

    @property
    def otlp(self) -> list[bytes]:
        return [payload for frame in self.frames for payload in frame.otlp]


def span(number: int) -> Span:
    return Span(context=new_root(sampled=True), name=str(number), service="worker", start_ns=1, end_ns=2)


async def test_what_gathers_goes_in_one_frame():
    router = Router()
    relay = SpanRelay([router])
    relay.record(span(1))
    relay.take_otlp(b"one")
    relay.record(span(2))
    assert router.frames == []
    await asyncio.wait_for(router.sent.wait(), SOON)
    (frame,) = router.frames
    assert ([one.name for one in frame.spans], list(frame.otlp)) == (["1", "2"], [b"one"])
    relay.close()


async def test_they_go_to_the_first_router_that_takes_them():
    without, full, takes = Router(takes_spans=False), Router(room=0), Router()
    relay = SpanRelay([without, full, takes])
    assert relay.wanted
    relay.record(span(1))
    relay.take_otlp(b"one")
    assert relay.flush()
    assert (takes.names, takes.otlp, without.frames, full.frames) == (["1"], [b"one"], [], [])
    assert not relay.flush()
    relay.close()


async def test_what_a_router_could_not_take_keeps_its_order():
    router = Router(room=0)
    relay = SpanRelay([router])
    for number in range(3):
        relay.record(span(number))
        relay.take_otlp(str(number).encode())
    assert not relay.flush()
    relay.record(span(3))
    router.room = 1
    assert relay.flush()
    assert (router.names, router.otlp) == (["0", "1", "2", "3"], [b"0", b"1", b"2"])
    relay.close()


async def test_what_comes_while_nobody_takes_spans_waits_for_a_router_that_does():
    routers: list[Router] = []
    relay = SpanRelay(routers)
    assert not relay.wanted
    relay.record(span(1))
    router = Router()
    routers.append(router)
    relay.wake()
    await asyncio.wait_for(router.sent.wait(), SOON)
    assert router.names == ["1"]
    relay.close()


async def test_many_spans_go_in_frames_of_a_bounded_size_one_after_the_other():
    router = Router()
    relay = SpanRelay([router])
    for number in range(300):
        relay.record(span(number))
        relay.take_otlp(bytes(60_000) + str(number).encode())
    async with asyncio.timeout(SOON):
        while len(router.names) < 300 or relay.flush():
            router.sent.clear()
            await router.sent.wait()
    assert router.names == [str(number) for number in range(300)]
    assert max(len(frame.spans) for frame in router.frames) <= span_relay._FRAME_SPANS
    assert max(sum(map(len, frame.otlp)) for frame in router.frames) <= span_relay._FRAME_BYTES
    relay.close()


async def test_the_oldest_make_room():
    router = Router(takes_spans=False)
    relay = SpanRelay([router])
    for number in range(span_relay._MOST_SPANS + 5):
        relay.record(span(number))
    payload = bytes(span_relay._MOST_BYTES // 4)
    for number in range(6):
        relay.take_otlp(payload[1:] + bytes([number]))
    assert relay.dropped == 5 + 2
    router.takes_spans = True
    while relay.flush():
        pass
    assert (router.names[0], len(router.names)) == ("5", span_relay._MOST_SPANS)
    assert [one[-1] for one in router.otlp] == [2, 3, 4, 5]
    relay.record(span(1))  # there is room again
    relay.take_otlp(payload)
    assert relay.dropped == 7
    relay.close()


async def test_a_payload_that_alone_is_larger_than_a_frame_goes_alone():
    router = Router()
    relay = SpanRelay([router])
    large = bytes(span_relay._FRAME_BYTES + 1)
    relay.take_otlp(large)
    relay.take_otlp(b"small")
    relay.flush()
    relay.flush()
    assert [list(frame.otlp) for frame in router.frames] == [[large], [b"small"]]
    relay.close()
