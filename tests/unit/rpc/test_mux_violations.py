"""What a malformed frame does: `ProtocolViolationError`, or nothing, as documented; never anything else."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.session.v1 import frame_pb2

from services.core.errors import Reason
from services.rpc.limits import MuxLimits, ProtocolViolationError
from tests.testing.streams import Answerer, End, connect, request, settle

Frame = frame_pb2.Frame
HELLO = Frame(hello=frame_pb2.Hello(version=1, max_calls=9, body_credit=1000))
OPEN = frame_pb2.Open(operation="/v1/x", complete=True, credit=10)
HEAD = frame_pb2.Head(status=200)
LIMITS = MuxLimits(body_credit=1000, max_calls=4)


def of(call: int, **kind: object) -> frame_pb2.Frame:
    """A frame of a call."""
    frame = Frame(call=call)
    for name, value in kind.items():
        if isinstance(value, bytes | int):
            setattr(frame, name, value)
        elif value is None:
            getattr(frame, name).SetInParent()
        else:
            getattr(frame, name).CopyFrom(value)
    return frame


TO_CLIENT = {
    "an answer to no call": [of(9, head=HEAD)],
    "a head for call 0": [of(0, head=HEAD)],
    "an end for call 0": [of(0, end=None)],
    "data for call 0": [of(0, data=b"x")],
    "credit for no call": [of(9, credit=5)],
    "an error for no call": [of(9, error=frame_pb2.Frame().error)],
    "a second hello": [HELLO],
    "data before the head": [of(1, data=b"x")],
    "an end before the head": [of(1, end=None)],
    "a second head": [of(1, head=HEAD), of(1, head=HEAD)],
    "data beyond the credit": [of(1, head=HEAD), of(1, data=b"x" * 10), of(1, data=b"y")],
    "a status that HTTP has not": [of(1, head=frame_pb2.Head(status=0))],
    "a status beyond HTTP": [of(1, head=frame_pb2.Head(status=2**32 - 1))],
    "a call from the answering end": [of(3, open=OPEN)],
    "a cancel from the answering end": [of(1, cancel=None)],
}
TO_SERVER = {
    "a frame for no call": [of(9, data=b"x")],
    "credit for no call": [of(9, credit=1)],
    "credit for call 0": [of(0, credit=1)],
    "a cancel for no call": [of(9, cancel=None)],
    "an end for no call": [of(9, end=None)],
    "a second hello": [HELLO],
    "call 0 opened": [of(0, open=OPEN)],
    "a number used again": [of(1, open=OPEN), of(1, open=OPEN)],
    "numbers that fall": [of(5, open=OPEN), of(4, open=OPEN)],
    "body after its end": [of(1, open=OPEN), of(1, data=b"x")],
    "an end after the end": [of(1, open=OPEN), of(1, end=None)],
    "body beyond the credit, in the opening": [of(1, open=frame_pb2.Open(body=b"x" * 1001))],
    "body beyond the credit": [of(1, open=frame_pb2.Open()), of(1, data=b"x" * 1001)],
    "a head from the calling end": [of(1, open=OPEN), of(1, head=HEAD)],
    "an error from the calling end": [of(1, open=OPEN), of(1, error=frame_pb2.Frame().error)],
}


@pytest.mark.parametrize("frames", TO_CLIENT.values(), ids=TO_CLIENT)
def test_the_calling_end_refuses(frames: list[frame_pb2.Frame]) -> None:
    client, server, _ = connect(LIMITS)
    answer, _ = client.call(request(), credit=10)
    client.send(server)
    with pytest.raises(ProtocolViolationError):
        client.receive(*frames)
    assert not answer.ends


@pytest.mark.parametrize("frames", TO_SERVER.values(), ids=TO_SERVER)
def test_the_answering_end_refuses(frames: list[frame_pb2.Frame]) -> None:
    _, server, _ = connect(LIMITS)
    with pytest.raises(ProtocolViolationError):
        server.receive(*frames)


@pytest.mark.parametrize("serves", [True, False])
@pytest.mark.parametrize(
    "frame",
    [of(1, open=OPEN), of(0, ping=None), of(1, data=b"x"), of(0, drain=None), Frame(hello=frame_pb2.Hello(version=0))],
    ids=["open", "ping", "data", "drain", "hello without version"],
)
def test_hello_comes_first(frame: frame_pb2.Frame, serves: bool) -> None:
    end = End(Answerer() if serves else None)
    with pytest.raises(ProtocolViolationError):
        end.receive(frame)


def test_a_kind_of_a_newer_peer_is_ignored() -> None:
    client, server, answerer = connect()
    # Field 99 of a frame, holding an empty message: what a later version of the protocol might send.
    newer = Frame.FromString(b"\x08\x01" + b"\x9a\x06\x00")
    for end in (client, server):
        end.receive(newer)
    client.call(request())
    settle(client, server)
    assert len(answerer.calls) == 1


def test_a_newer_hello_is_taken_for_ours() -> None:
    client = End()
    client.receive(Frame(hello=frame_pb2.Hello(version=7, features=["telepathy"], max_calls=1, body_credit=9)))
    assert client.mux.accepting
    assert client.mux.peer is not None
    assert client.mux.peer.version == 7


def test_frames_for_ended_calls_are_ignored() -> None:
    client, server, answerer = connect()
    answer, _ = client.call(request())
    settle(client, server)
    answerer.calls[0].head()
    answerer.calls[0].receiver.end()
    settle(client, server)
    client.receive(of(1, data=b"late"), of(1, head=HEAD), of(1, end=None), of(1, credit=7), of(1, error=Frame().error))
    server.receive(of(1, credit=7), of(1, cancel=None), of(1, data=b"late"), of(1, end=None))
    assert answer.ends == [None]
    assert answer.body == b""


def test_an_unknown_reason_is_internal() -> None:
    client, server, _ = connect()
    answer, _ = client.call(request())
    client.send(server)
    error = Frame().error
    error.ParseFromString(b"\x08\xe7\x07\x12\x02hi")  # reason 999
    client.receive(of(1, error=error))
    assert answer.reason is Reason.INTERNAL
    assert answer.error is not None
    assert answer.error.message == "hi"


def test_an_error_on_call_0_ends_the_session() -> None:
    client, server, answerer = connect()
    answer, _ = client.call(request())
    settle(client, server)
    error = Frame().error
    error.reason = 31  # CLUSTER_MAINTENANCE
    client.receive(of(0, error=error), of(77, head=HEAD))
    assert answer.reason is Reason.CLUSTER_MAINTENANCE
    server.receive(of(0, error=error))
    assert answerer.calls[0].cancelled
    late, _ = client.call(request())
    client.run_deferred()
    assert late.reason is Reason.CLUSTER_MAINTENANCE


@pytest.mark.parametrize("credit", [0, 2**32 - 1])
def test_any_credit_is_taken(credit: int) -> None:
    _, server, answerer = connect()
    server.receive(of(1, open=OPEN), *[of(1, credit=credit)] * 100)
    assert answerer.calls[0].credit >= 10


CALLS = st.sampled_from([0, 1, 2, 3, 7, 2**32, 2**64 - 1])
KINDS = st.one_of(
    st.builds(lambda n, b: of(n, data=b), CALLS, st.binary(max_size=1200)),
    st.builds(lambda n, c: of(n, credit=c), CALLS, st.integers(0, 2**32 - 1)),
    st.builds(
        lambda n, kind: of(n, **{kind: None}),
        CALLS,
        st.sampled_from(["hello", "open", "head", "end", "error", "cancel", "ping", "pong", "drain", "report"]),
    ),
    st.builds(lambda n, s: of(n, head=frame_pb2.Head(status=s)), CALLS, st.integers(0, 2**32 - 1)),
    st.builds(
        lambda n, body, whole: of(n, open=frame_pb2.Open(operation="/x", body=body, complete=whole, credit=50)),
        CALLS,
        st.binary(max_size=1200),
        st.booleans(),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(KINDS, max_size=12))
def test_no_frames_do_anything_else(frames: list[frame_pb2.Frame]) -> None:
    client, server, _ = connect(LIMITS)
    answers = [client.call(request(b"b" * 3000), credit=100)[0] for _ in range(3)]
    client.send(server)
    for end in (client, server):
        with contextlib.suppress(ProtocolViolationError):
            end.receive(*frames)
        while end.mux.pending:
            end.take()
    assert all(len(answer.body) <= 100 and len(answer.ends) <= 1 for answer in answers)
