"""What the multiplexer does with calls, step by step."""

import pytest
from weft.session.v1 import frame_pb2

from services.core.errors import Reason, ServiceError
from services.core.inference import Request
from services.rpc.limits import INLINE_BODY_BYTES, MAX_CREDIT, MuxLimits, ProtocolViolationError
from services.rpc.outbox import MESSAGE_BYTES
from tests.testing.streams import Answer, End, assert_forgotten, connect, request, settle


def kinds(frames: list[frame_pb2.Frame]) -> list[tuple[int, str | None]]:
    """Calls and kinds of frames."""
    return [(frame.call, frame.WhichOneof("kind")) for frame in frames]


def test_a_call_and_its_answer() -> None:
    client, server, answerer = connect()
    sent = Request("/tokenize", (("a", "1"), ("a", "2")), b"{}", "GET", cluster="c", framework="vllm", timeout=9.5)
    answer, _ = client.call(sent, credit=100)
    settle(client, server)
    (served,) = answerer.calls
    assert served.request == sent
    assert served.credit == 100
    served.head(418)
    served.data(b"tea")
    settle(client, server)
    assert (answer.heads[0].status, answer.body, answer.ends) == (418, b"tea", [])
    assert (client.mux.open_calls, server.mux.open_calls) == (1, 1)
    served.receiver.end()
    settle(client, server)
    assert answer.ends == [None]
    assert_forgotten(client, server)


def test_a_router_stops_a_worker_and_its_calls_go_on() -> None:
    client, server, answerer = connect()
    answer, _ = client.call(request(), credit=100)
    settle(client, server)
    client.mux.stop("nobody calls")
    settle(client, server)
    assert [stop.why for stop in server.events.stops] == ["nobody calls"]
    answerer.calls[0].head()
    answerer.calls[0].receiver.end()
    settle(client, server)
    assert answer.ends == [None]


def test_the_hello_says_what_the_peer_may_do() -> None:
    client, server, _ = connect(MuxLimits(max_calls=3, body_credit=77))
    (hello,) = client.events.hellos
    assert (hello.version, hello.max_calls, hello.body_credit, hello.agent) == (1, 3, 77, "test")
    assert server.events.hellos[0].agent == "test"


def test_calls_before_hello_and_at_the_answering_end_are_refused() -> None:
    for end in (End(), connect()[1]):
        answer, call = end.call(request())
        assert not answer.ends
        call.grant(5)
        end.run_deferred()
        assert answer.reason is Reason.WORKER_LOST


def test_a_refused_call_that_was_cancelled_hears_nothing() -> None:
    client = End()
    answer, call = client.call(request())
    answer.left = True
    call.cancel()
    client.run_deferred()
    assert not answer.ends


def test_one_call_too_many_is_refused_by_the_caller_itself() -> None:
    client, server, answerer = connect(MuxLimits(max_calls=2))
    answers = [client.call(request())[0] for _ in range(3)]
    assert not client.mux.accepting
    settle(client, server)
    assert [answer.reason for answer in answers] == [None, None, Reason.OVERLOADED]
    assert len(answerer.calls) == 2


def test_one_call_too_many_is_refused_by_the_peer_too() -> None:
    _, server, answerer = connect(MuxLimits(max_calls=1))
    opening = frame_pb2.Open(operation="/x", complete=True)
    server.receive(frame_pb2.Frame(call=1, open=opening), frame_pb2.Frame(call=2, open=opening))
    assert len(answerer.calls) == 1
    (refusal,) = server.take()
    assert (refusal.call, refusal.error.reason) == (2, Reason.OVERLOADED.value)


def test_a_body_too_large_is_refused_before_it_is_read() -> None:
    client, server, answerer = connect(MuxLimits(max_body=300_000, body_credit=100_000))
    answer, _ = client.call(request(b"x" * 10_000_000))
    settle(client, server)
    assert answer.reason is Reason.BODY_TOO_LARGE
    assert not answerer.calls
    assert_forgotten(client, server)


def test_bodies_that_are_not_complete_are_bounded_together() -> None:
    client, server, answerer = connect(MuxLimits(max_buffered_bodies=250_000, body_credit=100_000))
    answers = [client.call(request(bytes([n]) * 100_001))[0] for n in range(4)]
    client.send(server)
    # None of the bodies is complete yet: the last byte of each waits for credit.
    while server.arriving:
        server.deliver()
        client.send(server)
    settle(client, server)
    overloaded = [answer.reason for answer in answers].count(Reason.OVERLOADED)
    assert overloaded == 2
    assert len(answerer.calls) == 2
    assert all(len(set(served.request.body)) == 1 for served in answerer.calls)


@pytest.mark.parametrize("size", [0, 1, INLINE_BODY_BYTES, INLINE_BODY_BYTES + 1, 256 * 1024 + 1, 5_000_000])
def test_bodies_of_every_size_arrive(size: int) -> None:
    client, server, answerer = connect()
    body = bytes(i % 251 for i in range(size))
    client.call(request(body))
    settle(client, server)
    assert answerer.calls[0].request.body == body


def test_a_grant_does_not_overtake_the_opening() -> None:
    client, server, answerer = connect()
    _, call = client.call(request(), credit=10)
    call.grant(32)
    settle(client, server)
    assert answerer.calls[0].credit == 42


def test_a_grant_reaches_a_call_whose_body_is_on_its_way() -> None:
    client, server, answerer = connect(MuxLimits(body_credit=1000))
    _, call = client.call(request(b"x" * 5000), credit=10)
    client.send(server)
    call.grant(32)
    settle(client, server)
    assert answerer.calls[0].credit == 42


def test_a_call_cancelled_before_it_left_never_leaves() -> None:
    client, server, answerer = connect()
    answer, call = client.call(request(b"x" * 200_000))
    answer.left = True
    call.cancel()
    call.cancel()
    call.grant(9)
    assert client.take() == []
    client.call(request())
    settle(client, server)
    assert len(answerer.calls) == 1


def test_a_cancel_stops_the_computation_and_what_it_had_sent() -> None:
    client, server, answerer = connect()
    answer, call = client.call(request())
    settle(client, server)
    answerer.calls[0].head()
    answerer.calls[0].data(b"x" * 1000)
    answer.left = True
    call.cancel()
    client.send(server)
    server.deliver()
    assert answerer.calls[0].cancelled
    settle(client, server)
    assert not answer.heads
    assert_forgotten(client, server)


def test_a_cancel_in_the_middle_of_the_body() -> None:
    client, server, answerer = connect(MuxLimits(body_credit=1000))
    answer, call = client.call(request(b"x" * 5000))
    client.send(server)
    server.deliver()
    answer.left = True
    call.cancel()
    settle(client, server)
    assert not answerer.calls
    assert_forgotten(client, server)


class Pair(Answer):
    """A receiver whose failure makes its owner give up the other of two calls."""

    give_up_other = staticmethod(lambda: None)

    def fail(self, error: ServiceError) -> None:
        """See `Receiver.fail`."""
        super().fail(error)
        self.give_up_other()


def test_a_lost_stream_ends_every_call_once() -> None:
    client, server, answerer = connect()
    answers = [Pair(), Pair()]
    calls = [client.mux.open(request(), answer, 10) for answer in answers]

    def give_up(number: int) -> None:
        if not answers[number].ends:
            answers[number].left = True
        calls[number].cancel()

    for number, answer in enumerate(answers):
        answer.opened = True
        answer.give_up_other = lambda other=1 - number: give_up(other)  # type: ignore[method-assign, misc]
    settle(client, server)
    client.mux.close(ServiceError(Reason.WORKER_LOST))
    server.mux.close(ServiceError(Reason.WORKER_LOST))
    assert sorted(len(answer.ends) for answer in answers) == [0, 1]
    assert all(served.cancelled for served in answerer.calls)
    assert client.mux.open_calls == 0


def test_a_closed_end_says_why_and_nothing_else() -> None:
    client, server, answerer = connect()
    client.call(request())
    settle(client, server)
    answerer.calls[0].head()
    answerer.calls[0].data(b"x" * 1000)
    error = ServiceError(Reason.PROTOCOL_VIOLATION)
    server.mux.tell_why(error)
    server.mux.close(error)
    server.mux.close(ServiceError(Reason.INTERNAL))
    assert server.mux.closed is error
    assert kinds(server.take()) == [(0, "error")]
    assert not server.mux.pending


def test_draining_refuses_new_calls_and_finishes_the_open_ones() -> None:
    client, server, answerer = connect()
    answer, _ = client.call(request())
    settle(client, server)
    server.mux.drain(3.0)
    settle(client, server)
    assert client.events.drains == 1
    late, _ = client.call(request())
    client.run_deferred()
    assert late.reason is Reason.SHUTTING_DOWN
    answerer.calls[0].head()
    answerer.calls[0].receiver.end()
    settle(client, server)
    assert answer.ends == [None]


def test_a_ping_is_answered_and_a_report_arrives() -> None:
    client, server, _ = connect()
    client.mux.ping(2**64 - 1)
    client.send(server)
    server.deliver()
    server.mux.report(frame_pb2.Report(detail="fine"))
    pong, report = server.take()
    assert pong.pong.nonce == 2**64 - 1
    client.receive(pong, report)
    assert client.events.reports[0].detail == "fine"


# Fairness and bounds


def test_a_call_with_megabytes_does_not_hold_back_others() -> None:
    client, server, answerer = connect()
    for _ in range(11):
        client.call(request(), credit=4_000_000)
    settle(client, server)
    for served in answerer.calls:
        served.head()
    settle(client, server)
    answerer.calls[0].data(b"x" * 4_000_000)
    for served in answerer.calls[1:]:
        served.data(b"token")
    server.mux.ping(1)
    frames = server.take()
    assert kinds(frames)[0] == (0, "ping")
    assert {frame.call for frame in frames} == set(range(12))
    assert sum(len(frame.data) for frame in frames) <= MESSAGE_BYTES + 64 * 1024


def test_tokens_that_wait_together_travel_in_one_frame() -> None:
    client, server, answerer = connect()
    client.call(request())
    settle(client, server)
    answerer.calls[0].head()
    for token in (b"one ", b"two ", b"three"):
        answerer.calls[0].data(token)
    frames = server.take()
    assert kinds(frames) == [(1, "head"), (1, "data")]
    assert frames[1].data == b"one two three"


def test_large_headers_of_many_calls_do_not_make_a_message_too_large_for_grpc() -> None:
    client, server, answerer = connect()
    headers = (("authorization", "Bearer " + "x" * 60_000),)
    for _ in range(2000):
        client.call(Request("/x", headers, b"{}"))
    sizes = []
    while client.mux.pending:
        client.send(server)
        sizes.append(len(server.arriving[-1]))
        server.deliver()
    assert max(sizes) < 48 * 1024 * 1024
    assert len(answerer.calls) == 2000


def test_a_grant_beyond_the_largest_is_passed_on_bit_by_bit() -> None:
    client, server, answerer = connect()
    answer, _ = client.call(request(), credit=3 * MAX_CREDIT)
    settle(client, server)
    (served,) = answerer.calls
    served.head()
    while served.credit:
        served.data(b"x" * min(served.credit, 1_000_000))
        settle(client, server)
    assert len(answer.body) == 3 * MAX_CREDIT


def test_credit_is_withheld_while_too_much_waits_and_then_released() -> None:
    client, server, answerer = connect(MuxLimits(outbox_soft=1000))
    client.call(request(), credit=5000)
    _, call = client.call(request(), credit=10)
    settle(client, server)
    one, two = answerer.calls
    one.head()
    one.data(b"x" * 5000)
    call.grant(70)
    client.send(server)
    server.deliver()
    assert two.credit == 10
    client.call(request(), credit=33)
    client.send(server)
    server.deliver()
    three = answerer.calls[2]
    assert three.credit == 0
    settle(client, server)
    assert (two.credit, three.credit) == (80, 33)


def test_calls_that_end_while_credit_is_withheld_are_forgotten() -> None:
    client, server, answerer = connect(MuxLimits(outbox_soft=1000))
    client.call(request(), credit=5000)
    settle(client, server)
    answerer.calls[0].head()
    answerer.calls[0].data(b"x" * 5000)
    for _ in range(10):
        answer, call = client.call(request(), credit=5)
        client.send(server)
        answer.left = True
        call.cancel()
        client.send(server)
        while server.arriving:
            server.deliver()
    assert not server.mux._incoming.withheld  # type: ignore[union-attr]


def test_a_peer_that_grants_and_never_reads_loses_its_stream_alone() -> None:
    client, server, answerer = connect(MuxLimits(outbox_soft=10_000, outbox_hard=50_000))
    _, unharmed, others = connect()
    for _ in range(20):
        client.call(request(), credit=9000)
    settle(client, server)
    for served in answerer.calls:
        served.head()
        if not served.cancelled and server.mux.closed is None:
            served.data(b"x" * 9000)
        server.run_deferred()
    assert server.mux.closed is not None
    assert server.mux.closed.reason is Reason.PROTOCOL_VIOLATION
    assert all(served.cancelled for served in answerer.calls)
    assert server.mux._outbox.data_bytes == 0
    assert unharmed.mux.closed is None
    assert not others.calls


@pytest.mark.parametrize("kind", ["ping", "open"])
def test_a_peer_that_sends_and_never_reads_loses_its_stream(kind: str) -> None:
    _, server, _ = connect(MuxLimits(max_waiting=1000, max_calls=1))

    def flood() -> None:
        for number in range(1, 2000):
            frame = frame_pb2.Frame(call=number)
            getattr(frame, kind).SetInParent()
            server.receive(frame)

    with pytest.raises(ProtocolViolationError):
        flood()
