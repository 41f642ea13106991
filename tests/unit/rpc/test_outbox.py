"""What waits to be sent: in order within a call, in turns between calls, control frames ahead."""

from hypothesis import given
from hypothesis import strategies as st
from weft.inference.v1 import inference_pb2
from weft.session.v1 import frame_pb2

from services.core.inference import Head
from services.rpc.frames import END, Credit
from services.rpc.outbox import MESSAGE_BYTES, QUANTUM_BYTES, Lane, Outbox


def take(outbox: Outbox) -> list[frame_pb2.Frame]:
    """The next message."""
    message = inference_pb2.MultiplexResponse()
    outbox.take(message.frames)
    return list(message.frames)


def new() -> tuple[Outbox, list[None]]:
    """An outbox, and how often it called `wake`."""
    wakes: list[None] = []
    return Outbox(lambda: wakes.append(None)), wakes


def test_it_wakes_its_writer_once_for_a_lane_that_waits() -> None:
    outbox, wakes = new()
    lane = Lane(1)
    outbox.put(lane, b"a")
    outbox.put(lane, b"b")
    assert len(wakes) == 1
    take(outbox)
    outbox.put(lane, b"c")
    assert len(wakes) == 2


def test_control_frames_go_first_and_in_order() -> None:
    outbox, _ = new()
    outbox.put(Lane(1), b"data")
    outbox.control(1, Credit(5))
    outbox.control(2, Credit(6))
    assert [(frame.call, frame.credit) for frame in take(outbox)] == [(1, 5), (2, 6), (1, 0)]
    assert not outbox


def test_a_lane_has_its_turn_and_no_more() -> None:
    outbox, _ = new()
    long, short = Lane(1), Lane(2)
    outbox.put(long, b"x" * (QUANTUM_BYTES * 3 + 1))
    outbox.put(short, b"y")
    sizes = [(frame.call, len(frame.data)) for frame in take(outbox)]
    assert sizes == [(1, QUANTUM_BYTES), (2, 1), (1, QUANTUM_BYTES), (1, QUANTUM_BYTES), (1, 1)]


def test_turns_go_on_where_the_last_message_ended() -> None:
    outbox, _ = new()
    lanes = [Lane(number) for number in range(100)]
    for lane in lanes:
        outbox.put(lane, b"x" * QUANTUM_BYTES * 2)
    first, second = take(outbox), take(outbox)
    assert sum(len(frame.data) for frame in first) <= MESSAGE_BYTES + QUANTUM_BYTES
    assert [frame.call for frame in first + second] == list(range(len(first) + len(second)))


def test_what_is_dropped_is_not_sent_nor_counted() -> None:
    outbox, _ = new()
    dropped, kept = Lane(1), Lane(2)
    outbox.put(dropped, b"x" * 100)
    outbox.put(dropped, END)
    outbox.put(kept, b"y")
    outbox.drop(dropped)
    assert outbox.data_bytes == 1
    assert [frame.call for frame in take(outbox)] == [2]
    assert not outbox
    assert outbox.data_bytes == 0


def test_cleared_it_keeps_control_frames_only() -> None:
    outbox, _ = new()
    lane = Lane(1)
    outbox.put(lane, b"x" * 100)
    outbox.control(0, Credit(1))
    outbox.clear()
    assert len(outbox) == 1
    assert [frame.credit for frame in take(outbox)] == [1]
    outbox.put(lane, b"again")
    assert [frame.data for frame in take(outbox)] == [b"again"]


CHUNKS = st.lists(st.integers(0, 3 * QUANTUM_BYTES), max_size=8)


@given(st.lists(CHUNKS, min_size=1, max_size=6), st.integers(0, 5))
def test_every_lane_comes_out_as_it_went_in(sizes: list[list[int]], taken_between: int) -> None:
    outbox, _ = new()
    lanes = [Lane(number) for number in range(len(sizes))]
    frames: list[frame_pb2.Frame] = []
    went_in = [bytearray() for _ in sizes]
    for lane, chunks in zip(lanes, sizes, strict=True):
        outbox.put(lane, Head(200, ()))
        for position, size in enumerate(chunks):
            chunk = bytes([(lane.call * 7 + position) % 256]) * size
            went_in[lane.call] += chunk
            outbox.put(lane, chunk)
            if position == taken_between:
                frames += take(outbox)
        outbox.put(lane, END)
    assert outbox.data_bytes == sum(map(len, went_in)) - sum(len(frame.data) for frame in frames)
    while outbox:
        frames += take(outbox)
    assert outbox.data_bytes == 0
    for lane in lanes:
        mine = [frame for frame in frames if frame.call == lane.call]
        assert mine[0].HasField("head")
        assert mine[-1].HasField("end")
        assert all(frame.WhichOneof("kind") == "data" for frame in mine[1:-1])
        assert b"".join(frame.data for frame in mine) == went_in[lane.call]
