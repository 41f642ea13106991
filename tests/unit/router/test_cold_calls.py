"""Calls that wait where a worker can be started: how long, in which order, what they hear meanwhile, and what becomes
of a stream that has begun with heartbeats; with servers that the test answers for, and its own clock.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.core.catalogue import Availability, Catalogue, Cluster, Endpoint, ModelBinding
from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.core.globus import GlobusBackend, GlobusFunction, LaunchPolicy
from services.core.inference import Head, Headers, Request
from services.router.audit import CallAudit
from services.router.body import read_body
from services.router.cold import ColdEndpoint, ColdEndpoints, StartState
from services.router.dispatch import DispatchedCall
from services.router.dispatcher import Dispatcher, DispatchSettings
from services.router.policies import least_outstanding
from services.router.roster import Roster
from services.router.targets import Server
from services.runtime.audit import AuditLog
from tests.testing.bills import Books
from tests.testing.clock import Clock
from tests.testing.permits import permitted
from tests.testing.streams import Answer, Answerer, Served

COLD = "clusters/one/endpoints/cold"
SETTINGS = DispatchSettings(
    Bounds(first_byte=30, stall=30, total=3600),
    max_attempts=3,
    wait_for_worker=5,
    max_waiting=2000,
    cold_patience=600,
    heartbeat_after=15,
)
QUEUED = ColdEndpoint(StartState.QUEUED, "its job is third\nin the queue.", retry_after=90)
EVENTS = Head(200, (("content-type", "text/event-stream; charset=utf-8"),))
ERROR = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'


def endpoint(name: str = COLD, serves: str = "", calls_per_worker: int = 0) -> Endpoint:
    launch = LaunchPolicy(GlobusFunction("e"), serves=serves, calls_per_worker=calls_per_worker)
    return Endpoint(name, GlobusBackend(launch=launch), models=(ModelBinding("m"),))


AS_IT_IS = "/v1/messages"
"""An operation whose streams pass in the pieces in which they come."""


class Bench:
    """A dispatcher before an endpoint that has no worker yet."""

    def __init__(self, settings: DispatchSettings = SETTINGS, **cold: str) -> None:
        self.clock = Clock()
        self.roster = Roster(settle=0, clock=self.clock.time)
        self.catalogue = Catalogue.of([Cluster("clusters/one"), endpoint(**cold)])
        self.roster.set_catalogue(self.catalogue)
        self.cold = ColdEndpoints()
        self.cold.changed = self.roster.state_changed
        self.outcomes: list[str] = []
        self.books = Books(self.clock.time)
        self.dispatcher = Dispatcher(
            self.roster,
            least_outstanding,
            settings,
            self.clock,
            lambda call, outcome: self.outcomes.append(outcome),
            CallAudit(AuditLog(Path("/dev/null"))),
            self.cold,
        )
        self.answerer = Answerer()

    def attach(self, *, max_calls: int = 0, serves: str = "") -> Server:
        made = Server(COLD, "i", self.answerer, {"m": ""}, ready=True, max_calls=max_calls, serves=serves)
        self.roster.add(made)
        return made

    def call(
        self,
        *,
        stream: bool = False,
        credit: int = 1 << 16,
        asked: Headers = (),
        operation: str = "/v1/chat/completions",
        timeout: float | None = None,
        caller: str = "users/a",
    ) -> tuple[Answer, DispatchedCall]:
        body = b'{"model":"m","stream":true}' if stream else b'{"model":"m"}'
        request = Request(operation, (), body, timeout=timeout)
        answer = Answer()
        permit = permitted(self.roster, request, "m", caller)
        bill = self.books.bill(self.roster, request, "m", caller)
        call = DispatchedCall(
            self.dispatcher,
            request,
            read_body(body),
            "m",
            answer,
            credit,
            permit=permit,
            bill=bill,
            caller=caller,
            asked=asked,
        )
        answer.opened = True
        call.next_attempt()
        return answer, call

    @property
    def served(self) -> Served:
        """The last call at the worker."""
        return self.answerer.calls[-1]

    def assert_over(self) -> None:
        """Nothing is left."""
        assert (self.roster.waiting, self.clock.timers) == (0, 0)
        assert all(server.open_calls == 0 for server in self.roster.servers)


def test_a_call_waits_as_long_as_it_may_and_hears_how_things_stand():
    bench = Bench()
    answer, _ = bench.call()
    bench.cold.learn({COLD: QUEUED})
    bench.clock.advance(599)
    assert answer.ends == []
    bench.clock.advance(1)
    assert answer.error is not None
    assert (answer.reason, answer.error.retry_after) == (Reason.MODEL_STARTING, 90)
    assert answer.error.message == "No worker serves 'm' yet: its job is third in the queue; try again in 90 s."
    bench.assert_over()


@pytest.mark.parametrize(
    ("asked", "stream", "timeout", "seconds"),
    [
        ((("prefer", "respond-async, wait=20"),), False, None, 20),
        ((("prefer", "wait=20"),), True, None, 20),
        ((("prefer", "wait=9999"),), False, None, 600),
        ((("x-stainless-read-timeout", "60.0"),), False, None, 59),
        ((("x-stainless-read-timeout", "60"),), True, None, 600),
        ((("x-stainless-timeout", "NOT_GIVEN"),), False, None, 600),
        ((("x-stainless-timeout", "nan"),), False, None, 600),
        ((), False, 40.0, 39),
        ((), True, 40.0, 39),
    ],
)
def test_how_long_is_the_callers_to_say(asked, stream, timeout, seconds):
    bench = Bench()
    answer, _ = bench.call(asked=asked, stream=stream, timeout=timeout)
    bench.clock.advance(seconds - 0.1)
    assert answer.ends == []
    bench.clock.advance(0.1)
    assert answer.reason is Reason.NO_WORKER, "how far the start is, is not known"
    bench.assert_over()


def test_the_bound_to_the_first_byte_counts_from_when_a_worker_is_asked():
    bench = Bench()
    answer, _ = bench.call()
    bench.clock.advance(500)
    bench.attach()
    assert bench.served.request.first_byte_timeout == 30
    bench.clock.advance(29)
    assert answer.ends == []
    bench.clock.advance(1)
    assert (answer.reason, bench.served.cancelled) == (Reason.FIRST_BYTE_TIMEOUT, True)
    bench.assert_over()


def test_they_go_in_the_order_of_their_coming_and_no_more_than_the_worker_takes():
    bench = Bench()
    calls = [bench.call() for _ in range(1000)]
    worker = bench.attach(max_calls=10)
    assert (len(bench.answerer.calls), bench.roster.waiting) == (10, 990)
    for number in range(1000):
        bench.answerer.calls[number].head()
        bench.answerer.calls[number].receiver.end()
        assert calls[number][0].ends == [None], "it was the turn of another"
        assert worker.open_calls <= 10
    bench.assert_over()


def test_a_call_whose_attempt_fails_waits_anew_before_those_who_came_later():
    bench = Bench()
    first, second, third = (bench.call()[0] for _ in range(3))
    bench.attach(max_calls=1)
    bench.served.receiver.fail(ServiceError(Reason.UPSTREAM_BROKEN))
    for answer in (second, first, third):
        assert answer.ends == [], "it was the turn of another"
        bench.served.head()
        bench.served.receiver.end()
        assert answer.ends == [None]
    bench.assert_over()


def test_what_is_under_maintenance_is_not_waited_for():
    bench = Bench()
    answer, _ = bench.call()
    shut = Cluster("clusters/one", availability=Availability.MAINTENANCE, notice="back on Monday")
    bench.roster.set_catalogue(bench.catalogue.apply([shut]))
    assert answer.reason is Reason.CLUSTER_MAINTENANCE
    late, _ = bench.call()
    assert late.error is not None
    assert "back on Monday" in late.error.message
    bench.assert_over()


def test_a_start_that_has_failed_and_is_not_tried_in_time_is_not_waited_for():
    bench = Bench()
    answer, _ = bench.call(asked=(("prefer", "wait=60"),))
    stays, call = bench.call()
    failed = ColdEndpoint(StartState.FAILED, "the allocation has expired", retry_after=300, failed=True)
    bench.cold.learn({COLD: failed})
    assert answer.error is not None
    assert (answer.reason, answer.error.retry_after, stays.ends) == (Reason.NO_WORKER, 300, [])
    assert "the allocation has expired" in answer.error.message
    late, _ = bench.call(asked=(("prefer", "wait=60"),))
    assert late.reason is Reason.NO_WORKER
    call.cancel()
    bench.assert_over()


def test_where_no_launcher_has_ever_answered_nobody_waits_for_it():
    bench = Bench()
    answer, _ = bench.call()
    bench.cold.give_up(frozenset({COLD}))
    assert answer.error is not None
    assert answer.reason is Reason.NO_WORKER
    assert "the launcher, which would start one, does not answer" in answer.error.message
    late, _ = bench.call()
    assert late.reason is Reason.NO_WORKER
    bench.assert_over()


def test_an_endpoint_for_one_principal_is_not_started_for_another():
    bench = Bench(serves="users/a")
    own, call = bench.call(caller="users/a")
    other, _ = bench.call(caller="users/b")
    assert (own.ends, other.reason) == ([], Reason.MODEL_FORBIDDEN)
    bench.attach(serves="users/a")
    stranger, _ = bench.call(caller="users/b")
    assert (len(bench.answerer.calls), stranger.reason) == (1, Reason.MODEL_FORBIDDEN)
    bench.served.head()
    bench.served.receiver.end()
    assert own.ends == [None]
    call.cancel()
    bench.assert_over()


def test_no_more_wait_than_may_but_who_has_waited_may_wait_again():
    bench = Bench(DispatchSettings(Bounds(), 3, 5, max_waiting=1))
    answer, _ = bench.call()
    refused, _ = bench.call()
    assert (refused.reason, answer.ends) == (Reason.OVERLOADED, [])
    bench.attach()
    bench.served.head()
    bench.served.receiver.end()
    bench.assert_over()


def test_the_bodies_that_wait_are_bounded_together():
    bench = Bench(DispatchSettings(Bounds(), 3, 5, max_waiting=100, max_waiting_bytes=30))
    waits, call = bench.call()
    waits_too, left = bench.call()
    refused, _ = bench.call()
    assert (waits.ends, waits_too.ends, refused.reason) == ([], [], Reason.OVERLOADED)
    left.cancel()
    _, later = bench.call()
    assert bench.roster.waiting == 2
    call.cancel()
    later.cancel()
    bench.assert_over()


def test_no_client_has_the_router_write_as_fast_as_it_can():
    bench = Bench()
    answer, call = bench.call(stream=True, asked=(("x-stainless-read-timeout", "0.001"),))
    bench.clock.advance(10)
    assert answer.body.count(b": weft") == 10
    call.cancel()
    bench.assert_over()


# Heartbeats


def test_a_streamed_call_hears_comments_and_then_its_answer():
    bench = Bench()
    answer, _ = bench.call(stream=True)
    bench.clock.advance(14.9)
    assert answer.heads == [], "short waits are silent: an error can still have its own status"
    bench.cold.learn({COLD: QUEUED})
    assert answer.heads == []
    bench.clock.advance(0.1)
    assert (answer.heads[0].status, answer.heads[0].header("content-type")) == (200, "text/event-stream; charset=utf-8")
    queued = ": weft queued — its job is third in the queue\n\n".encode()
    assert bytes(answer.body) == queued
    bench.clock.advance(15)
    assert bytes(answer.body) == queued * 2
    bench.cold.learn({COLD: ColdEndpoint(StartState.QUEUED, QUEUED.detail, retry_after=80)})
    assert bytes(answer.body) == queued * 2, "what it would hear is the same"
    bench.cold.learn({COLD: ColdEndpoint(StartState.STARTING)})
    starting = ": weft starting — its model server is starting\n\n".encode()
    assert bytes(answer.body) == queued * 2 + starting
    bench.attach()
    bench.served.receiver.head(EVENTS)
    bench.served.data(b"data: {}\n\n")
    bench.served.data(b"data: [DONE]\n\n")
    bench.served.receiver.end()
    assert bytes(answer.body) == queued * 2 + starting + b"data: {}\n\ndata: [DONE]\n\n"
    assert (answer.ends, bench.outcomes) == ([None], ["ok"])
    bench.assert_over()


@pytest.mark.parametrize("operation", ["/v1/embeddings", "/v1/audio/speech"])
def test_only_streams_of_events_have_comments(operation):
    bench = Bench()
    answer, call = bench.call(stream=True, operation=operation)
    bench.clock.advance(100)
    assert answer.heads == []
    call.cancel()
    bench.assert_over()


def test_a_client_that_takes_silence_for_failure_sooner_hears_sooner():
    bench = Bench()
    answer, call = bench.call(stream=True, asked=(("x-stainless-read-timeout", "10"),))
    bench.clock.advance(5)
    assert answer.heads
    call.cancel()
    bench.assert_over()


def test_a_call_hears_too_that_its_server_is_silent():
    bench = Bench()
    bench.attach()
    answer, _ = bench.call(stream=True)
    bench.clock.advance(15)
    assert bytes(answer.body) == (
        ": weft working — the model server has the call, and has not begun its answer\n\n".encode()
    )
    bench.cold.learn({COLD: ColdEndpoint(StartState.READY, tasks=True)})
    bench.clock.advance(14)
    bench.served.receiver.head(EVENTS)
    bench.served.data(b"data: {}\n\n")
    bench.clock.advance(29)
    assert answer.body.count(b": weft") == 1, "no comments once the answer has begun"
    bench.served.receiver.end()
    bench.assert_over()


def test_attempts_move_on_after_heartbeats():
    bench = Bench()
    bench.attach()
    bench.attach()
    answer, _ = bench.call(stream=True)
    bench.clock.advance(15)
    bench.served.receiver.fail(ServiceError(Reason.WORKER_LOST))
    assert len(bench.answerer.calls) == 2
    bench.served.receiver.head(EVENTS)
    bench.served.data(b"data: {}\n\n")
    bench.served.receiver.end()
    assert answer.body.endswith(b"data: {}\n\n")
    assert answer.ends == [None]
    bench.assert_over()


def test_a_call_that_is_given_up_after_heartbeats_fails():
    bench = Bench()
    answer, _ = bench.call(stream=True, asked=(("prefer", "wait=20"),))
    bench.cold.learn({COLD: QUEUED})
    bench.clock.advance(20)
    assert (len(answer.heads), answer.reason) == (1, Reason.MODEL_STARTING)
    bench.assert_over()


@pytest.mark.parametrize("credit", [40, 200, 1 << 14])
def test_comments_and_answer_together_keep_within_the_credit(credit):
    bench = Bench()
    answer, call = bench.call(stream=True, operation=AS_IT_IS, credit=credit)
    bench.cold.learn({COLD: QUEUED})
    bench.clock.advance(590)
    bench.attach()
    bench.clock.advance(29)
    granted = credit
    sent = bytearray()
    for size in (1, 1000, 7, 5000):
        while len(sent) < size:
            room = bench.served.credit
            if room:
                if not sent:
                    bench.served.receiver.head(EVENTS)
                bench.served.data(b"x" * min(room, 100))
                sent += b"x" * min(room, 100)
                assert len(answer.body) <= granted
            else:
                assert granted - len(answer.body) <= credit // 2, "the client has not had what it can have"
                call.grant(300)
                granted += 300
    assert answer.body.count(b"x\n") == 0
    assert answer.body.endswith(b"x" * 1000)
    bench.served.receiver.end()
    assert bench.roster.servers[0].open_calls == 0
    bench.assert_over()


@pytest.mark.parametrize("credit", [100, 1 << 14])
def test_all_of_the_credit_reaches_the_server_without_heartbeats(credit):
    bench = Bench()
    bench.attach()
    answer, call = bench.call(stream=True, operation=AS_IT_IS, credit=credit)
    bench.served.receiver.head(EVENTS)
    while bench.served.credit:
        bench.served.data(b"x" * min(10, bench.served.credit))
    assert len(answer.body) == credit
    call.grant(5)
    assert bench.served.credit == 5
    bench.served.receiver.end()
    bench.assert_over()


def test_what_was_kept_of_the_credit_goes_with_the_next_grant():
    bench = Bench()
    bench.attach()
    _, call = bench.call(stream=True, operation=AS_IT_IS, credit=1 << 14)
    bench.served.receiver.head(EVENTS)
    bench.served.data(b"0123456789")
    assert bench.served.credit < (1 << 14) - 10
    call.grant(5)
    assert bench.served.credit == (1 << 14) - 10 + 5
    bench.served.receiver.end()
    bench.assert_over()


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize(
    ("operation", "body", "expected"),
    [
        ("/v1/chat/completions", ERROR, b"data: " + ERROR + b"\n\n"),
        ("/v1/chat/completions", b'{"error":\n"bad"}', b'data: {"error":\ndata: "bad"}\n\n'),
        (
            "/v1/messages",
            b'{"type":"error","error":{"type":"invalid_request_error","message":"bad"}}',
            b'event: error\ndata: {"type":"error","error":{"type":"invalid_request_error","message":"bad"}}\n\n',
        ),
    ],
)
def test_a_servers_refusal_after_heartbeats_is_an_error_event_in_its_own_bytes(operation, body, expected, chunks):
    bench = Bench()
    bench.attach()
    answer, _ = bench.call(stream=True, operation=operation)
    bench.clock.advance(15)
    answer.body.clear()
    bench.served.receiver.head(Head(400, (("content-type", "application/json"),)))
    size = -(-len(body) // chunks)
    for start in range(0, len(body), size):
        bench.served.data(body[start : start + size])
    assert answer.body == b""
    bench.served.receiver.end()
    assert (bytes(answer.body), answer.ends, len(answer.heads)) == (expected, [None], 1)
    bench.assert_over()


@pytest.mark.parametrize(
    ("operation", "body", "message"),
    [
        ("/v1/chat/completions", b'{"detail":"Not Found"}', "Not Found"),
        ("/v1/messages", ERROR, "too long"),
        ("/v1/responses", ERROR, "too long"),
        ("/v1/completions", b"<html>\xff", "<html>\ufffd"),
        ("/v1/completions", b"", ""),
    ],
)
def test_a_refusal_in_another_shape_is_put_into_the_one_that_clients_raise_from(operation, body, message):
    bench = Bench()
    bench.attach()
    answer, _ = bench.call(stream=True, operation=operation)
    bench.clock.advance(15)
    answer.body.clear()
    bench.served.receiver.head(Head(404, ()))
    if body:
        bench.served.data(body)
    bench.served.receiver.end()
    *name, data, rest = (
        bytes(answer.body).split(b"\n", 1) if b"event:" not in answer.body else bytes(answer.body).split(b"\n", 2)
    )
    value = json.loads(data.removeprefix(b"data: "))
    assert rest == b"\n"
    assert value["error"]["message"] == message
    assert bool(name) == (operation in ("/v1/messages", "/v1/responses"))
    assert not name or (name == [b"event: error"] and value["type"] == "error")
    bench.assert_over()


def test_a_refusal_that_has_no_room_is_shortened():
    bench = Bench()
    bench.attach()
    answer, _ = bench.call(stream=True, credit=600)
    bench.clock.advance(15)
    spent = len(answer.body)
    assert spent
    bench.served.receiver.head(Head(400, ()))
    while bench.served.credit and not answer.ends:
        bench.served.data(b"x" * min(100, bench.served.credit))
    assert answer.ends == [None], "the server has said enough"
    assert bench.served.cancelled
    assert len(answer.body) <= 600
    value = json.loads(bytes(answer.body[spent:]).removeprefix(b"data: "))
    assert set(value["error"]["message"]) == {"x"}
    bench.assert_over()


def test_an_answer_that_is_no_stream_although_one_was_promised_is_no_answer():
    bench = Bench()
    bench.attach()
    answer, _ = bench.call(stream=True)
    bench.clock.advance(15)
    bench.served.receiver.head(Head(200, (("content-type", "application/json"),)))
    bench.served.data(b'{"choices":[]}')
    bench.served.receiver.end()
    assert answer.reason is Reason.UPSTREAM_BROKEN
    bench.assert_over()


def test_leaving_at_the_sight_of_a_heartbeat():
    bench = Bench()
    answer, call = bench.call(stream=True)

    def leave(chunk: bytes) -> None:
        call.cancel()
        answer.left = True

    answer.on_data = leave
    bench.clock.advance(15)
    assert (bench.outcomes, answer.left) == (["cancelled"], True)
    bench.clock.advance(100)
    bench.assert_over()
