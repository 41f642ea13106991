"""One call on its way: attempts, waiting, bounds, credit; with servers that the test answers for, and its own clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from services.core.catalogue import Availability, Catalogue, Cluster, Deleted, Endpoint, ModelBinding, SessionBackend
from services.core.deadlines import Bounds
from services.core.errors import CATALOGUE, Reason, ServiceError
from services.core.inference import Call, Head, Inference, Receiver, Request
from services.core.principal import Principal
from services.router.audit import CallAudit
from services.router.body import read_body
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

ENDPOINT = "clusters/one/endpoints/vllm"
REQUEST = Request("/v1/completions", (("content-type", "application/json"),), b'{"model":"m","max_tokens":10}')
SETTINGS = DispatchSettings(Bounds(first_byte=10, stall=3, total=60), max_attempts=3, wait_for_worker=5, max_waiting=2)


class Bench:
    """A dispatcher over servers whose calls the test answers; at the end everything must be back to nothing."""

    def __init__(self, servers: int = 1, *, settings: DispatchSettings = SETTINGS, settle: float = 0) -> None:
        self.clock = Clock()
        self.roster = Roster(settle=settle, clock=self.clock.time)
        self.endpoint = Endpoint(ENDPOINT, SessionBackend())
        self.roster.set_catalogue(Catalogue.of([Cluster("clusters/one"), self.endpoint]))
        self.outcomes: list[str] = []
        self.books = Books(self.clock.time)
        self.dispatcher = Dispatcher(
            self.roster,
            least_outstanding,
            settings,
            self.clock,
            lambda call, outcome: self.outcomes.append(outcome),
            CallAudit(AuditLog(Path("/dev/null"))),
        )
        self.servers: list[Server] = []
        self.answerers: list[Answerer] = []
        self.answers: list[Answer] = []
        for _ in range(servers):
            self.attach()

    def attach(self, *, max_calls: int = 0, inference: Inference | None = None) -> Server:
        answerer = Answerer()
        made = Server(ENDPOINT, "instance", inference or answerer, {"m": ""}, ready=True, max_calls=max_calls)
        self.servers.append(made)
        self.answerers.append(answerer)
        self.roster.add(made)
        return made

    def call(
        self,
        request: Request = REQUEST,
        credit: int = 100,
        model: str = "m",
        principal: Principal | str = "users/alice",
    ) -> tuple[Answer, DispatchedCall]:
        answer = Answer()
        permit = permitted(self.roster, request, model)
        bill = self.books.bill(self.roster, request, model, principal)
        call = DispatchedCall(
            self.dispatcher, request, read_body(request.body), model, answer, credit, permit=permit, bill=bill
        )
        answer.opened = True
        self.answers.append(answer)
        call.next_attempt()
        return answer, call

    def served(self, server: int = 0) -> Served:
        """The last call at a server."""
        return self.answerers[server].calls[-1]

    @property
    def placed(self) -> list[int]:
        """Calls that each server was given."""
        return [len(answerer.calls) for answerer in self.answerers]

    def assert_over(self) -> None:
        """Every call has ended once, nothing is open, and no timer is left."""
        assert len(self.outcomes) == len(self.answers)
        assert all(len(answer.ends) == 1 or answer.left for answer in self.answers)
        assert [(server.open_calls, server.outstanding_tokens) for server in self.servers] == [(0, 0)] * len(
            self.servers
        )
        assert (self.roster.waiting, self.clock.timers) == (0, 0)


def leave(answer: Answer, call: DispatchedCall) -> None:
    call.cancel()
    answer.left = True


def test_an_answer_passes_through():
    bench = Bench()
    answer, _ = bench.call()
    served = bench.served()
    assert (served.credit, served.request.body) == (100, REQUEST.body)
    assert (bench.servers[0].open_calls, bench.servers[0].outstanding_tokens) == (1, len(REQUEST.body) // 4 + 10)
    served.head()
    assert answer.heads == [], "the head waits for the first byte"
    served.data(b"ab")
    served.data(b"cd")
    assert (answer.heads[0].status, bytes(answer.body), answer.ends) == (200, b"abcd", [])
    served.receiver.end()
    assert (answer.ends, bench.outcomes, bench.servers[0].ended_calls) == ([None], ["ok"], 1)
    bench.assert_over()


def test_an_answer_without_a_body_has_its_head():
    bench = Bench()
    answer, _ = bench.call()
    bench.served().head(204)
    bench.served().receiver.end()
    assert (answer.heads[0].status, answer.ends) == (204, [None])
    bench.assert_over()


MOVES = [reason for reason in Reason if CATALOGUE[reason].elsewhere]
STAYS = [Reason.FIRST_BYTE_TIMEOUT, Reason.BODY_TOO_LARGE, Reason.INTERNAL, Reason.PROTOCOL_VIOLATION]


@pytest.mark.parametrize("headed", [False, True])
@pytest.mark.parametrize("reason", MOVES)
def test_before_the_first_byte_a_failed_attempt_moves_to_another_server(reason, headed):
    bench = Bench(2)
    answer, call = bench.call()
    call.grant(7)
    first = bench.served(0)
    if headed:
        first.head(201)
    first.receiver.fail(ServiceError(reason))
    second = bench.served(1)
    assert (second.credit, bench.servers[0].open_calls) == (107, 0)
    second.head()
    second.data(b"x")
    second.receiver.end()
    assert (answer.heads[0].status, bytes(answer.body), answer.ends) == (200, b"x", [None])
    bench.assert_over()


@pytest.mark.parametrize("reason", STAYS)
def test_some_errors_would_be_the_same_elsewhere(reason):
    bench = Bench(2)
    answer, _ = bench.call()
    bench.served(0).receiver.fail(ServiceError(reason))
    assert (answer.reason, bench.placed) == (reason, [1, 0])
    bench.assert_over()


@pytest.mark.parametrize("reason", MOVES)
def test_after_the_first_byte_a_failure_ends_the_call(reason):
    bench = Bench(2)
    answer, _ = bench.call()
    bench.served(0).head()
    bench.served(0).data(b"x")
    bench.served(0).receiver.fail(ServiceError(reason))
    assert (answer.reason, bytes(answer.body), bench.placed) == (reason, b"x", [1, 0])
    bench.assert_over()


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_sick_servers_status_moves_the_call_if_another_server_is_there(status):
    bench = Bench(2)
    answer, _ = bench.call()
    bench.served(0).head(status)
    assert (bench.served(0).cancelled, bench.placed) == (True, [1, 1])
    bench.served(1).head(status)
    bench.served(1).data(b"sick")
    bench.served(1).receiver.end()
    assert (answer.heads[0].status, bytes(answer.body)) == (status, b"sick"), "the last one's answer stands"
    bench.assert_over()


@pytest.mark.parametrize("status", [200, 400, 404, 429, 500, 501, 503])
def test_a_status_passes_through_where_nobody_else_is(status):
    bench = Bench(1)
    answer, _ = bench.call()
    bench.served().head(status)
    bench.served().data(b"x")
    bench.served().receiver.end()
    assert (answer.heads[0].status, bench.outcomes) == (status, ["ok"])
    bench.assert_over()


@pytest.mark.parametrize("status", [400, 404, 422, 429, 501, 504])
def test_other_statuses_do_not_move(status):
    bench = Bench(2)
    bench.call()
    bench.served(0).head(status)
    bench.served(0).receiver.end()
    assert bench.placed == [1, 0]
    bench.assert_over()


def test_attempts_are_bounded_and_the_last_error_stands():
    bench = Bench(5)
    answer, _ = bench.call()
    for number in range(3):
        bench.served(number).receiver.fail(ServiceError(Reason.UPSTREAM_BROKEN, f"error {number}"))
    assert bench.placed == [1, 1, 1, 0, 0]
    assert answer.error is not None
    assert answer.error.message == "error 2"
    bench.assert_over()


def test_a_server_that_cannot_be_reached_gets_no_calls_until_it_is_heard_to_be_well():
    bench = Bench(2)
    first, _ = bench.call()
    bench.served(0).receiver.fail(ServiceError(Reason.UPSTREAM_UNREACHABLE))
    bench.served(1).head()
    bench.served(1).receiver.end()
    assert (bench.servers[0].ready, first.ends) == (False, [None])
    for _ in range(3):
        bench.call()
        bench.served(1).head()
        bench.served(1).receiver.end()
    assert bench.placed == [1, 4]
    bench.assert_over()


# Credit


def test_credit_passes_through_exactly():
    bench = Bench()
    _, call = bench.call(credit=3)
    served = bench.served()
    served.head()
    served.data(b"abc")
    assert served.credit == 0
    call.grant(2)
    assert served.credit == 2
    served.data(b"de")
    call.grant(0)
    call.grant(5)
    assert served.credit == 5
    leave(bench.answers[0], call)
    bench.assert_over()


# Leaving


@pytest.mark.parametrize("sent", [0, 1, 2])
def test_leaving_stops_the_server(sent):
    bench = Bench()
    answer, call = bench.call()
    served = bench.served()
    if sent:
        served.head()
    if sent > 1:
        served.data(b"x")
    leave(answer, call)
    call.cancel()
    assert (served.cancelled, bench.outcomes) == (True, ["cancelled"])
    bench.assert_over()


def test_a_call_that_was_left_before_its_first_step_reaches_no_server():
    bench = Bench()
    answer = Answer()
    permit = permitted(bench.roster, REQUEST, "m")
    call = DispatchedCall(
        bench.dispatcher,
        REQUEST,
        read_body(REQUEST.body),
        "m",
        answer,
        100,
        permit=permit,
        bill=bench.books.bill(bench.roster, REQUEST, "m"),
    )
    bench.answers.append(answer)
    leave(answer, call)
    call.next_attempt()
    assert (bench.placed, bench.outcomes) == ([0], ["cancelled"])
    bench.assert_over()


@pytest.mark.parametrize("body", [b"", b"x"])
def test_leaving_at_the_sight_of_the_head(body):
    class Fickle(Answer):
        def head(self, head: Head) -> None:
            super().head(head)
            leave(self, call)

    bench = Bench()
    answer = Fickle()
    permit = permitted(bench.roster, REQUEST, "m")
    call = DispatchedCall(
        bench.dispatcher,
        REQUEST,
        read_body(REQUEST.body),
        "m",
        answer,
        100,
        permit=permit,
        bill=bench.books.bill(bench.roster, REQUEST, "m"),
    )
    answer.opened = True
    bench.answers.append(answer)
    call.next_attempt()
    bench.served().head()
    if body:
        bench.served().data(body)
    else:
        bench.served().receiver.end()
    assert bench.outcomes == ["cancelled"]
    bench.assert_over()


def test_leaving_while_waiting():
    bench = Bench(0)
    answer, call = bench.call(model="m")
    assert bench.roster.waiting == 0, "unknown at once when settled"
    bench = Bench(1)
    bench.servers[0].ready = False
    answer, call = bench.call()
    assert bench.roster.waiting == 1
    leave(answer, call)
    bench.assert_over()


# Time


def test_no_first_byte_in_time():
    bench = Bench(2)
    answer, _ = bench.call()
    bench.served(0).head()
    bench.clock.advance(10)
    assert (answer.reason, bench.served(0).cancelled, bench.placed) == (Reason.FIRST_BYTE_TIMEOUT, True, [1, 0])
    bench.assert_over()


def test_the_bound_to_the_first_byte_holds_over_all_attempts():
    bench = Bench(2)
    answer, _ = bench.call()
    bench.clock.advance(6)
    bench.served(0).receiver.fail(ServiceError(Reason.WORKER_LOST))
    assert bench.served(1).request.first_byte_timeout == 4
    assert bench.served(1).request.timeout == 54
    bench.clock.advance(4)
    assert answer.reason is Reason.FIRST_BYTE_TIMEOUT
    bench.assert_over()


def test_a_stalled_answer():
    bench = Bench()
    answer, _ = bench.call()
    bench.served().head()
    bench.served().data(b"x")
    bench.clock.advance(2.9)
    bench.served().data(b"y")
    bench.clock.advance(2.9)
    assert answer.ends == []
    bench.clock.advance(0.1)
    assert (answer.reason, bench.served().cancelled) == (Reason.STALL_TIMEOUT, True)
    bench.assert_over()


def test_an_answer_whose_receiver_grants_nothing_does_not_stall():
    bench = Bench()
    answer, call = bench.call(credit=1)
    bench.served().head()
    bench.served().data(b"x")
    bench.clock.advance(40)
    assert answer.ends == []
    call.grant(1)
    bench.clock.advance(3)
    assert answer.reason is Reason.STALL_TIMEOUT
    bench.assert_over()


def test_the_callers_own_timeout_is_the_shorter_one():
    bench = Bench()
    answer, _ = bench.call(msgspec.structs.replace(REQUEST, timeout=2.0))
    bench.clock.advance(2)
    assert (answer.reason, bench.served().cancelled) == (Reason.TOTAL_TIMEOUT, True)
    bench.assert_over()


# Waiting for a server


def test_a_worker_that_comes_in_time_takes_the_call_that_waits():
    bench = Bench(settle=100)
    bench.roster.remove(bench.servers[0])
    answer, _ = bench.call()
    assert bench.roster.waiting == 1
    bench.clock.advance(4)
    bench.attach()
    served = bench.served(1)
    served.head()
    served.data(b"x")
    bench.clock.advance(2)
    assert answer.ends == [], "the end of the wait is no end of the call"
    served.receiver.end()
    assert answer.ends == [None]
    bench.assert_over()


def test_a_worker_that_does_not_come():
    bench = Bench()
    bench.roster.remove(bench.servers[0])
    answer, _ = bench.call()
    bench.clock.advance(4.9)
    assert answer.ends == []
    bench.roster.refresh()
    bench.clock.advance(0.1)
    assert answer.reason is Reason.NO_WORKER
    assert answer.error is not None
    assert answer.error.retry_after == 5
    bench.assert_over()


def test_the_only_server_failed_and_comes_back():
    bench = Bench()
    answer, _ = bench.call()
    bench.served().receiver.fail(ServiceError(Reason.UPSTREAM_UNREACHABLE))
    assert (bench.roster.waiting, bench.servers[0].open_calls) == (1, 0)
    bench.servers[0].ready = True
    bench.roster.refresh()
    assert bench.placed == [2]
    bench.served().head()
    bench.served().receiver.end()
    assert answer.ends == [None]
    bench.assert_over()


def test_the_only_server_failed_and_stays_away():
    bench = Bench()
    answer, _ = bench.call()
    bench.served().receiver.fail(ServiceError(Reason.UPSTREAM_UNREACHABLE, "refused"))
    bench.clock.advance(5)
    assert answer.error is not None
    assert (answer.reason, answer.error.message) == (Reason.UPSTREAM_UNREACHABLE, "refused")
    bench.assert_over()


def test_no_more_wait_than_may():
    bench = Bench()
    bench.servers[0].ready = False
    waiting = [bench.call() for _ in range(2)]
    refused, _ = bench.call()
    assert (refused.reason, bench.roster.waiting) == (Reason.OVERLOADED, 2)
    for answer, call in waiting:
        leave(answer, call)
    bench.assert_over()


def test_a_model_that_nobody_knows_is_waited_for_until_the_roster_has_settled():
    bench = Bench(settle=3)
    unknown, _ = bench.call(model="x")
    bench.clock.advance(2)
    assert unknown.ends == []
    bench.clock.advance(3)
    late, _ = bench.call(model="x")
    assert (unknown.reason, late.reason) == (Reason.MODEL_NOT_FOUND, Reason.MODEL_NOT_FOUND)
    bench.assert_over()


def test_a_pin_that_nobody_knows_is_told_so_when_the_wait_is_over():
    bench = Bench(settle=3)
    answer, _ = bench.call(msgspec.structs.replace(REQUEST, cluster="elsewhere"))
    bench.clock.advance(5)
    assert answer.reason is Reason.MODEL_NOT_FOUND
    bench.assert_over()


def test_a_model_that_is_deleted_while_a_call_waits_for_it():
    bench = Bench()
    bench.servers[0].ready = False
    answer, _ = bench.call()
    bench.roster.set_catalogue(Catalogue().apply([Deleted(ENDPOINT)]))
    assert answer.reason is Reason.MODEL_NOT_FOUND
    bench.assert_over()


def test_what_its_operators_closed_is_refused_at_once():
    bench = Bench()
    closed = dataclasses.replace(bench.endpoint, availability=Availability.MAINTENANCE, notice="until noon")
    bench.roster.set_catalogue(Catalogue.of([Cluster("clusters/one"), closed]))
    answer, _ = bench.call()
    assert answer.reason is Reason.CLUSTER_MAINTENANCE
    assert answer.error is not None
    assert answer.error.message == f"The endpoint '{ENDPOINT}' is under maintenance: until noon."
    bench.assert_over()


def test_free_places_go_to_those_who_waited_longest():
    bench = Bench(0)
    bench.attach(max_calls=1)
    running, _ = bench.call()
    first, _ = bench.call()
    second, _ = bench.call()
    for answer in (running, first, second):
        assert bench.servers[0].open_calls == 1
        served = bench.served()
        served.head()
        served.data(b"x")
        served.receiver.end()
        assert answer.ends == [None]
    assert bench.placed == [3]
    bench.assert_over()


def test_the_place_of_whoever_leaves_is_free():
    bench = Bench(0)
    bench.attach(max_calls=1)
    running, running_call = bench.call()
    waiting, _ = bench.call()
    leave(running, running_call)
    bench.served().head()
    bench.served().receiver.end()
    assert (bench.placed, waiting.ends) == ([2], [None])
    bench.assert_over()


def test_servers_that_stay_full():
    bench = Bench(0)
    bench.attach(max_calls=1)
    running, running_call = bench.call()
    waiting, _ = bench.call()
    bench.clock.advance(5)
    assert waiting.reason is Reason.OVERLOADED
    leave(running, running_call)
    bench.assert_over()


# The request


def test_a_servers_own_name_for_the_model_is_spliced_in():
    bench = Bench()
    endpoint = dataclasses.replace(bench.endpoint, models=(ModelBinding("public", "m"),))
    bench.roster.set_catalogue(Catalogue.of([Cluster("clusters/one"), endpoint]))
    request = msgspec.structs.replace(REQUEST, body=b'{"n":1.0, "model":"public"}', cluster="one", framework="")
    _, call = bench.call(request, model="public")
    assert bench.served().request.body == b'{"n":1.0, "model":"m"}'
    assert bench.served().request.cluster == "", "a pin concerns the router alone"
    leave(bench.answers[0], call)
    bench.assert_over()


def test_a_body_without_a_model_stays_as_it_is():
    bench = Bench()
    _, call = bench.call(msgspec.structs.replace(REQUEST, body=b'{ "n":1}'))
    assert bench.served().request.body == b'{ "n":1}'
    leave(bench.answers[0], call)


def test_a_wild_bound_counts_no_more_than_any_answer_could():
    bench = Bench()
    _, call = bench.call(msgspec.structs.replace(REQUEST, body=b'{"max_tokens":%d}' % 10**30))
    assert 0 < bench.servers[0].outstanding_tokens < 2**32
    leave(bench.answers[0], call)
    bench.assert_over()


def test_a_server_that_refuses_at_once_is_one_attempt():
    """As a multiplexer does whose stream is gone: it tells soon after `open`."""

    class Refusing:
        receivers: list[Receiver] = []

        def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
            self.receivers.append(receiver)
            return Served(request, receiver, credit)

    bench = Bench(0)
    refusing = Refusing()
    bench.attach(inference=refusing)
    bench.attach()
    answer, _ = bench.call()
    refusing.receivers[0].fail(ServiceError(Reason.SHUTTING_DOWN))
    bench.served(1).head()
    bench.served(1).receiver.end()
    assert answer.ends == [None]
    bench.assert_over()
