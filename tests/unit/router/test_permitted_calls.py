"""Calls whose callers may use some endpoints and not others: where they go, what they wait for, what starts for them,
and what becomes of those that wait when policies or their logins change; with the test's own clock.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest

from services.core.access import Ask
from services.core.catalogue import AccessPolicy, Availability, Catalogue, Cluster, Endpoint, ModelBinding
from services.core.deadlines import Bounds
from services.core.errors import Reason
from services.core.globus import GlobusBackend, GlobusFunction, LaunchPolicy
from services.core.inference import Request
from services.core.principal import CredentialKind, Identity, Permissions, Principal
from services.router.audit import CallAudit
from services.router.body import read_body
from services.router.cold import ColdEndpoint, ColdEndpoints, StartState, wants
from services.router.dispatch import DispatchedCall
from services.router.dispatcher import Dispatcher, DispatchSettings
from services.router.permits import Permits
from services.router.policies import least_outstanding
from services.router.roster import Roster
from services.router.targets import Server
from services.runtime.audit import AuditLog
from tests.testing.bills import Books
from tests.testing.clock import Clock
from tests.testing.streams import Answer, Answerer

BODY = b'{"model":"m"}'
SITE = Cluster("clusters/one")
OPEN = Endpoint(
    "clusters/one/endpoints/open",
    GlobusBackend(launch=LaunchPolicy(GlobusFunction("e"))),
    models=(ModelBinding("m"),),
)
CLOSED = dataclasses.replace(OPEN, name="clusters/one/endpoints/closed", access=AccessPolicy(("g",)))
STRICT = dataclasses.replace(OPEN, name="clusters/one/endpoints/strict", access=AccessPolicy(max_session_age=60.0))
SETTINGS = DispatchSettings(Bounds(30, 30, 3600), max_attempts=3, wait_for_worker=5, max_waiting=100)


def person(name: str = "alice", **identity: Any) -> Principal:
    known: dict[str, Any] = {"kind": CredentialKind.GLOBUS, **identity}
    return Principal(f"users/{name}", permissions=Permissions(("*",)), identity=Identity(**known))


class Bench:
    """A dispatcher before endpoints without workers, which the launcher starts."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.clock = Clock()
        self.roster = Roster(settle=0, clock=self.clock.time)
        self.roster.set_catalogue(Catalogue.of([SITE, *endpoints]))
        self.cold = ColdEndpoints()
        self.cold.changed = self.roster.state_changed
        self.permits = Permits(self.roster, clock=self.clock.time)
        self.books = Books(self.clock.time)
        self.dispatcher = Dispatcher(
            self.roster,
            least_outstanding,
            SETTINGS,
            self.clock,
            lambda call, outcome: None,
            CallAudit(AuditLog(Path("/dev/null"))),
            self.cold,
        )

    def attach(self, endpoint: Endpoint, *, max_calls: int = 0) -> Answerer:
        answerer = Answerer()
        self.roster.add(Server(endpoint.name, "i", answerer, {"m": ""}, ready=True, max_calls=max_calls))
        return answerer

    def call(self, principal: Principal) -> tuple[Answer, DispatchedCall]:
        request, answer = Request("/v1/completions", (), BODY), Answer()
        permit = functools.partial(self.permits.permit, principal, Ask(request.operation, "m"))
        call = DispatchedCall(
            self.dispatcher,
            request,
            read_body(BODY),
            "m",
            answer,
            100,
            permit=permit,
            bill=self.books.bill(self.roster, request, "m", principal),
            caller=principal.name,
        )
        answer.opened = True
        call.next_attempt()
        return answer, call

    def change(self, *resources: Cluster | Endpoint) -> None:
        assert self.roster.catalogue is not None
        self.roster.set_catalogue(self.roster.catalogue.apply(resources))

    @property
    def wanted(self) -> dict[str, int]:
        return dict(wants(self.cold, self.roster.waiting_calls.counts, self.roster.launchable))


def test_a_call_goes_to_an_endpoint_that_its_caller_may_use_and_to_no_other() -> None:
    bench = Bench(OPEN, CLOSED)
    closed = bench.attach(CLOSED)
    stranger, left = bench.call(person())
    assert (len(closed.calls), stranger.ends) == (0, []), "it waits for another, though one is free"
    bench.call(person(groups=frozenset({"g"})))
    assert len(closed.calls) == 1
    opened = bench.attach(OPEN)
    assert (len(opened.calls), len(closed.calls)) == (1, 1)
    left.cancel()


def test_nobody_starts_a_worker_where_they_may_not_use_one() -> None:
    bench = Bench(OPEN, CLOSED)
    bench.cold.learn({CLOSED.name: ColdEndpoint(StartState.STARTING)})  # where a call would be sent by preference
    calls = [bench.call(person(str(number)))[1] for number in range(3)]
    assert bench.wanted == {OPEN.name: 3}
    calls.append(bench.call(person(groups=frozenset({"g"})))[1])
    assert bench.wanted == {OPEN.name: 3, CLOSED.name: 1}
    for call in calls:
        call.cancel()
    assert (bench.wanted, bench.clock.timers) == ({}, 0)


def test_callers_who_may_use_the_same_wait_in_one_queue() -> None:
    bench = Bench(OPEN, CLOSED)
    for number in range(3):
        bench.call(person(str(number)))
        bench.call(person(f"m{number}", groups=frozenset({"g", str(number)})))
    assert sorted(bench.roster.waiting_calls.counts.values()) == [3, 3]


def test_a_place_that_is_free_wakes_those_who_may_have_it() -> None:
    bench = Bench(OPEN, CLOSED)
    stranger, _ = bench.call(person())
    member, _ = bench.call(person(groups=frozenset({"g"})))
    closed = bench.attach(CLOSED, max_calls=1)
    assert len(closed.calls) == 1
    served = closed.calls[0]
    served.head()
    served.receiver.end()
    assert (member.ends, stranger.ends) == ([None], []), "whoever has waited longer may not have it"


def test_a_login_that_grows_too_old_ends_the_waiting_at_that_moment() -> None:
    bench = Bench(STRICT)
    answer, _ = bench.call(person(authenticated_at=bench.clock.now - 20))
    assert bench.wanted == {STRICT.name: 1}
    bench.clock.advance(39.9)
    assert answer.ends == []
    bench.clock.advance(0.1)
    assert answer.reason is Reason.SESSION_INSUFFICIENT
    assert (bench.wanted, bench.roster.waiting, bench.clock.timers) == ({}, 0, 0)


def test_a_login_that_grows_too_old_for_one_endpoint_leaves_the_others() -> None:
    bench = Bench(OPEN, STRICT)
    answer, _ = bench.call(person(authenticated_at=bench.clock.now))
    bench.clock.advance(60)
    strict = bench.attach(STRICT)
    assert (len(strict.calls), answer.ends) == (0, [])
    assert bench.wanted == {OPEN.name: 1}
    assert len(bench.attach(OPEN).calls) == 1


def test_a_call_waits_no_longer_than_its_patience_whatever_its_login() -> None:
    bench = Bench(STRICT)
    answer, _ = bench.call(person(authenticated_at=bench.clock.now + 570))
    bench.clock.advance(600)
    assert answer.reason in (Reason.NO_WORKER, Reason.MODEL_STARTING)
    assert bench.clock.timers == 0


@pytest.mark.parametrize(
    "change",
    [dataclasses.replace(OPEN, access=AccessPolicy(("g",))), dataclasses.replace(SITE, access=AccessPolicy(("g",)))],
    ids=["endpoint", "cluster"],
)
def test_a_policy_that_closes_ends_the_waiting_of_those_whom_it_is_not_for(change: Cluster | Endpoint) -> None:
    bench = Bench(OPEN)
    stranger, _ = bench.call(person())
    member, call = bench.call(person(groups=frozenset({"g"})))
    bench.change(change)
    assert (stranger.reason, member.ends) == (Reason.MODEL_FORBIDDEN, [])
    assert bench.wanted == {OPEN.name: 1}
    call.cancel()


def test_a_policy_that_opens_lets_those_who_wait_go_where_they_may_now() -> None:
    bench = Bench(OPEN, CLOSED)
    closed = bench.attach(CLOSED)
    answer, _ = bench.call(person())
    assert (answer.ends, len(closed.calls)) == ([], 0)
    bench.change(dataclasses.replace(CLOSED, access=AccessPolicy()))
    assert len(closed.calls) == 1


def test_what_is_closed_to_a_caller_does_not_hide_that_the_rest_is_under_maintenance() -> None:
    shut = dataclasses.replace(OPEN, availability=Availability.MAINTENANCE, notice="back soon")
    bench = Bench(shut, CLOSED)
    bench.attach(CLOSED, max_calls=1)
    answer, _ = bench.call(person())
    assert answer.reason is Reason.CLUSTER_MAINTENANCE
