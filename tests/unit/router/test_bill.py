"""What calls owe, on every way out: admitted, refused, moved, cut off, left; with servers that the test answers for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from services.core.catalogue import Catalogue, Cluster, Endpoint, Route, RouteTarget, SessionBackend
from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.core.inference import Head, Request
from services.core.principal import Principal
from services.core.quota import Limits, Quota
from services.router.audit import AuditLog
from services.router.body import read_body
from services.router.bounds import Reckoning
from services.router.claims import ClaimBook
from services.router.dispatch import DispatchedCall
from services.router.dispatcher import Dispatcher, DispatchSettings
from services.router.limits.claims import Claim
from services.router.policies import least_outstanding
from services.router.roster import Roster
from services.router.targets import Server
from tests.testing.bills import Books, limited
from tests.testing.clock import Clock
from tests.testing.permits import permitted
from tests.testing.streams import Answer, Answerer, Served

ONE, TWO = "clusters/one/endpoints/a", "clusters/two/endpoints/b"
JSON = Head(200, (("content-type", "application/json"),))
EVENTS = Head(200, (("content-type", "text/event-stream"),))
BODY = {"model": "m", "messages": [], "max_tokens": 50}
SIZE = len(json.dumps(BODY))
USED = b'{"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
ALICE = limited("users/alice", tokens_per_minute=1000)
STREAM = {**BODY, "stream": True}
FINISH = b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n'
ADDED = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3},"system_fingerprint":"f"}\n\n'
DONE = b"data: [DONE]\n\n"
STAMPED = FINISH[:-3] + b',"system_fingerprint":"f"}\n\n'


class Bench:
    """Two endpoints with a server each, and the books of what is called."""

    def __init__(self, *, one: Limits = Limits(), two: Limits = Limits(), cluster: Limits = Limits(), **options: Any):
        self.clock = Clock()
        self.roster = Roster(settle=0, clock=self.clock.time)
        self.roster.set_catalogue(
            Catalogue.of(
                [
                    Cluster("clusters/one", limits=cluster),
                    Cluster("clusters/two"),
                    Endpoint(ONE, SessionBackend(), limits=one),
                    Endpoint(TWO, SessionBackend(), limits=two),
                ]
            )
        )
        self.books = Books(self.clock.time, reckoning=Reckoning(100, 0, 0), **options)
        settings = DispatchSettings(Bounds(10, 3, 60), max_attempts=3, wait_for_worker=5, max_waiting=9)
        log = AuditLog(Path("/dev/null"))
        self.dispatcher = Dispatcher(self.roster, least_outstanding, settings, self.clock, lambda *_: None, log)
        self.answerers = [Answerer(), Answerer()]
        self.servers = [
            Server(endpoint, "i", answerer, {"m": ""}, ready=True)
            for endpoint, answerer in zip((ONE, TWO), self.answerers, strict=True)
        ]
        for server in self.servers:
            self.roster.add(server)

    def call(
        self,
        body: dict[str, Any] = BODY,
        principal: Principal = ALICE,
        credit: int = 1 << 16,
        *,
        lasts: float = math.inf,
    ) -> tuple[Answer, DispatchedCall]:
        """A call whose permit lasts so many seconds each time."""
        request = Request("/v1/chat/completions", (("x-request-id", "r"),), json.dumps(body).encode())
        bill = self.books.bill(self.roster, request, "m", principal)
        answer = Answer()
        allowed = permitted(self.roster, request, "m", principal.name)
        wanted = read_body(request.body)
        call = DispatchedCall(
            self.dispatcher,
            request,
            wanted,
            "m",
            answer,
            credit,
            permit=lambda: allowed()._replace(lasts=lasts),
            bill=bill,
            caller=principal.name,
        )
        answer.opened = True
        call.begin(admitted=True)
        return answer, call

    def served(self, server: int = 0) -> Served:
        return self.answerers[server].calls[-1]

    def left(self, principal: Principal = ALICE) -> int:
        """Tokens that its caller could use now."""
        claims = self.books.accounting.book.of_caller(self.roster.catalogue, principal, "")
        room = self.books.limiter.room(claims.items, principal=principal.name)
        assert room is not None
        return room


def answered(served: Served, body: bytes = USED, head: Head = JSON) -> None:
    served.receiver.head(head)
    served.data(body)
    served.receiver.end()


def test_the_bound_is_reserved_and_what_was_used_is_charged():
    bench = Bench()
    answer, _ = bench.call()
    assert bench.left() == 1000 - SIZE - 50
    answered(bench.served())
    assert bench.left() == 990
    assert answer.heads[0].header("x-ratelimit-limit-tokens") == "1000"
    (record,) = bench.books.records
    assert (record.input_tokens, record.output_tokens, record.estimated) == (7, 3, False)
    assert (record.principal, record.model, record.endpoint, record.outcome) == ("users/alice", "m", ONE, "ok")
    assert (record.status, record.operation, record.request_id) == (200, "/v1/chat/completions", "r")
    assert record.started <= (record.first_byte or 0) <= record.ended


def test_an_answer_that_was_cut_off_is_charged_its_bound():
    bench = Bench()
    _, call = bench.call(STREAM)
    bench.served().receiver.head(EVENTS)
    bench.served().data(b'data: {"choices":[{"index":0,"finish_reason":null}]}\n\n')
    call.cancel()
    (record,) = bench.books.records
    assert (record.outcome, record.estimated, record.streamed) == ("cancelled", True, True)
    assert bench.left() == 1000 - len(json.dumps(STREAM)) - 50
    assert record.input_tokens + record.output_tokens == 1000 - bench.left()


def test_a_client_that_leaves_when_it_has_all_is_charged_what_was_used():
    bench = Bench()
    _, call = bench.call({**STREAM, "stream_options": {"include_usage": True}})
    bench.served().receiver.head(EVENTS)
    bench.served().data(FINISH + ADDED + DONE)
    call.cancel()
    assert bench.left() == 990
    assert not bench.books.records[0].estimated


@pytest.mark.parametrize("status", [400, 404, 500])
def test_what_the_model_server_refuses_costs_nothing(status):
    bench = Bench()
    bench.roster.remove(bench.servers[1])
    bench.call()
    answered(bench.served(), b'{"error":{}}', Head(status, JSON.headers))
    assert bench.left() == 1000
    assert (bench.books.records[0].status, bench.books.records[0].outcome) == (status, "ok")


def test_a_call_that_reached_no_server_gives_all_back():
    bench = Bench()
    for server in bench.servers:
        server.ready = False
    answer, _ = bench.call()
    assert bench.left() < 1000
    bench.clock.advance(6)
    assert answer.reason is Reason.NO_WORKER
    assert bench.left() == 1000
    assert (bench.books.records[0].outcome, bench.books.records[0].status) == ("no_worker", 503)


def test_a_client_that_leaves_while_it_waits_gives_all_back():
    bench = Bench()
    for server in bench.servers:
        server.ready = False
    _, call = bench.call()
    call.cancel()
    assert (bench.left(), len(bench.books.records)) == (1000, 1)


def test_a_retried_call_is_charged_once_and_where_it_was_answered():
    limits = Limits(Quota(tokens_per_minute=500, requests_per_second=1))
    bench = Bench(one=limits, two=limits)
    bench.call()
    bench.served(0).receiver.fail(ServiceError(Reason.WORKER_LOST))
    answered(bench.served(1))
    assert bench.left() == 990
    assert [record.endpoint for record in bench.books.records] == [TWO]
    book, room = bench.books.accounting.book, bench.books.limiter.room
    rooms = [room(book.of_endpoint(bench.roster.catalogue, ALICE, e).items, principal=ALICE.name) for e in (ONE, TWO)]
    assert rooms == [500, 490]


def test_an_endpoint_whose_limits_refuse_is_passed_over():
    bench = Bench(one=Limits(Quota(concurrent_calls=1)))
    bench.call()
    bench.call()
    assert [len(answerer.calls) for answerer in bench.answerers] == [1, 1]
    bench.servers[1].open_calls += 5  # the other would be the better one
    answered(bench.served(0))
    bench.call()
    assert [len(answerer.calls) for answerer in bench.answerers] == [2, 1]


def test_where_only_limits_stand_in_the_way_the_caller_hears_of_them():
    full = Limits(Quota(concurrent_calls=1))
    bench = Bench(one=full, two=full)
    bench.call()
    bench.call()
    answer, _ = bench.call()
    assert answer.reason is Reason.CALLS_EXHAUSTED
    assert {violation.subject for violation in answer.error.violations} == {ONE}
    assert bench.left() == 1000 - 2 * (SIZE + 50)
    assert bench.books.records[0].outcome == "calls_exhausted"
    assert bench.books.records[0].status == 429


def test_a_full_server_beside_one_that_is_over_its_limits_is_waited_for():
    bench = Bench(one=Limits(Quota(concurrent_calls=1)))
    bench.servers[1].max_calls = 1
    bench.call()
    bench.call()
    answer, _ = bench.call()
    assert bench.roster.waiting == 1
    answered(bench.served(1))
    assert len(bench.answerers[1].calls) == 2
    assert not answer.ends


def test_a_clusters_limits_hold_for_each_caller_at_its_endpoints():
    bench = Bench(cluster=Limits(each=Quota(concurrent_calls=1)))
    bench.roster.remove(bench.servers[1])
    bench.call()
    refused, _ = bench.call()
    other, _ = bench.call(principal=Principal("users/bob"))
    assert refused.reason is Reason.CALLS_EXHAUSTED
    assert not other.ends


def test_open_calls_count_until_the_end_of_the_stream():
    alice = limited("users/alice", concurrent_calls=1)
    bench = Bench()
    _, call = bench.call(STREAM, alice)
    bench.served().receiver.head(EVENTS)
    with pytest.raises(ServiceError) as caught:
        bench.call(STREAM, alice)
    assert caught.value.reason is Reason.CALLS_EXHAUSTED
    call.cancel()
    bench.call(STREAM, alice)


def test_without_a_bound_of_the_caller_a_cap_is_set_and_told():
    bench = Bench()
    answer, _ = bench.call({"model": "m", "messages": []})
    assert json.loads(bench.served().request.body) == {"max_tokens": 100, "model": "m", "messages": []}
    answered(bench.served())
    assert answer.heads[0].header("x-weft-max-tokens") == "100"


def test_without_limits_nothing_is_changed_and_nothing_told():
    bench = Bench()
    body = {"model": "m", "messages": []}
    answer, _ = bench.call(body, Principal("users/bob"))
    assert bench.served().request.body == json.dumps(body).encode()
    answered(bench.served())
    assert answer.heads == [JSON]
    assert bench.books.records[0].output_tokens == 3


def test_a_call_that_can_never_fit_is_refused_or_shortened():
    body = {**BODY, "max_tokens": 5000}
    with pytest.raises(ServiceError) as caught:
        Bench().call(body)
    assert caught.value.reason is Reason.TOKENS_ABOVE_LIMIT
    bench = Bench(clamps=True)
    answer, _ = bench.call(body)
    bound = 1000 - len(json.dumps(body))
    assert json.loads(bench.served().request.body)["max_tokens"] == bound
    assert bench.left() == 0
    answered(bench.served())
    assert answer.heads[0].header("x-weft-max-tokens") == str(bound)
    assert bench.left() == 990


def test_a_call_without_room_for_a_token_is_refused_however_answers_are_shortened():
    bench = Bench(clamps=True)
    bench.call({**BODY, "max_tokens": 1000 - SIZE})
    with pytest.raises(ServiceError) as caught:
        bench.call()
    assert caught.value.reason is Reason.TOKENS_EXHAUSTED


def test_a_call_that_would_be_shortened_later_is_told_to_come_again():
    bench = Bench(clamps=True)
    bench.call({**BODY, "max_tokens": 1000 - SIZE})
    with pytest.raises(ServiceError) as caught:
        bench.call({**BODY, "max_tokens": 5000})
    assert caught.value.reason is Reason.TOKENS_EXHAUSTED, "clients try again after 429, and never after 400"
    with pytest.raises(ServiceError) as caught:
        bench.call({"model": "m", "messages": [{"role": "user", "content": "x" * 1000}]})
    assert caught.value.reason is Reason.TOKENS_ABOVE_LIMIT, "its prompt alone is too long"


@pytest.mark.parametrize("credit", [1, 7, 60, 1000, 1 << 16])
@pytest.mark.parametrize("step", [1, 50, 10_000])
def test_what_is_taken_out_of_a_stream_costs_the_client_no_credit(credit, step):
    bench = Bench()
    answer, call = bench.call(STREAM, credit=credit)
    served = bench.served()
    assert json.loads(served.request.body)["stream_options"] == {"include_usage": True}
    token = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    text = token * 3 + FINISH * 4 + ADDED + DONE
    granted = credit
    served.receiver.head(EVENTS)
    while text or not answer.ends:
        assert len(answer.body) <= granted
        size = min(step, served.credit, len(text))
        if size:
            piece, text = text[:size], text[size:]
            served.data(piece)
            if not text:
                served.receiver.end()
        else:
            assert len(answer.body) + 1500 > granted or credit > 1500, "it waits for a client who has had nothing"
            call.grant(5)
            granted += 5
    assert bytes(answer.body) == token * 3 + STAMPED * 4 + DONE
    assert bench.left() == 990
    assert bench.clock.timers == 0


def test_a_stream_that_breaks_off_loses_nothing_that_came():
    bench = Bench()
    answer, _ = bench.call(STREAM)
    bench.served().receiver.head(EVENTS)
    bench.served().data(FINISH)
    assert not answer.body
    bench.served().receiver.fail(ServiceError(Reason.WORKER_LOST))
    assert (bytes(answer.body), answer.reason) == (FINISH, Reason.WORKER_LOST)
    assert bench.books.records[0].estimated


# Claims


def test_which_claims_a_call_makes():
    quota, other = Quota(tokens_per_day=5), Quota(requests_per_second=2)
    catalogue = Catalogue.of(
        [
            Cluster("clusters/one", limits=Limits(quota)),
            Endpoint(ONE, SessionBackend(), limits=Limits(each=other)),
            Endpoint(TWO, SessionBackend()),
            Route("routes/m", "m", (RouteTarget(ONE),), limits=Limits(quota, other)),
        ]
    )
    book = ClaimBook()
    of_caller = book.of_caller(catalogue, ALICE, "routes/m")
    assert of_caller.items == (
        Claim("users/alice", Quota(tokens_per_minute=1000)),
        Claim("routes/m", quota),
        Claim("routes/m users/alice", other),
    )
    assert of_caller.tokens
    assert book.of_endpoint(catalogue, ALICE, ONE).items == (
        Claim("clusters/one", quota),
        Claim(f"{ONE} users/alice", other),
    )
    assert book.of_endpoint(catalogue, ALICE, TWO) == ((), False)
    assert book.of_endpoint(catalogue, ALICE, "clusters/gone/endpoints/x") == ((), False)
    assert not book.of_caller(catalogue, limited("users/b", requests_per_second=1), "").tokens


def test_the_same_claims_are_the_same_object_until_something_changes():
    catalogue = Catalogue.of([Cluster("clusters/one")])
    book = ClaimBook(most=2)
    first = book.of_caller(catalogue, ALICE, "")
    assert book.of_caller(catalogue, ALICE, "").items is first.items
    assert book.of_caller(Catalogue.of([]), ALICE, "").items is not first.items
    for number in range(3):
        book.of_caller(catalogue, limited(f"users/{number}", requests_per_second=1), "")
    assert book.of_caller(catalogue, ALICE, "").items == first.items
