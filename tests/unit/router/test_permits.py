"""Permits: what is remembered is what would be decided, whatever has changed; and calls that wait are judged anew."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.access import Ask, decide
from services.core.catalogue import AccessPolicy, Catalogue, Cluster, Endpoint, ModelBinding, SessionBackend
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Permissions, Principal
from services.router.permits import Permit, Permits
from services.router.roster import Roster
from services.router.targets import Server
from tests.testing.access import ASKS, PRINCIPALS, catalogues
from tests.testing.clock import Clock
from tests.testing.streams import Answerer

CHAT = "/v1/chat/completions"
ASK = Ask(CHAT, "m")
SITE = Cluster("clusters/one")
OPEN = Endpoint("clusters/one/endpoints/open", SessionBackend(), models=(ModelBinding("m"),))
STRICT = dataclasses.replace(OPEN, name="clusters/one/endpoints/strict", access=AccessPolicy(max_session_age=60.0))
CLOSED = dataclasses.replace(OPEN, name="clusters/one/endpoints/closed", access=AccessPolicy(("g",)))


def person(**identity: Any) -> Principal:
    known: dict[str, Any] = {"kind": CredentialKind.GLOBUS, **identity}
    return Principal("users/alice", permissions=Permissions(("*",)), identity=Identity(**known))


class Setting:
    """Permits over a roster, with a clock that dates sessions too."""

    def __init__(self, *resources: Cluster | Endpoint, settle: float = 0, most: int = 100) -> None:
        self.clock = Clock()
        self.roster = Roster(settle=settle, clock=self.clock.time)
        self.roster.set_catalogue(Catalogue.of([SITE, *resources]))
        self.permits = Permits(self.roster, clock=self.clock.time, most=most)

    def permit(self, principal: Principal, ask: Ask = ASK) -> Permit | Reason:
        try:
            return self.permits.permit(principal, ask)
        except ServiceError as error:
            return error.reason


def test_all_that_a_model_has_is_one_permit_for_everybody() -> None:
    setting = Setting(OPEN, CLOSED)
    assert setting.permit(person(groups=frozenset({"g"}))) == Permit(None)
    assert setting.permit(person()) == Permit(frozenset({OPEN.name}))


def test_a_permit_is_remembered_and_holds_as_long_as_a_login() -> None:
    setting = Setting(OPEN, STRICT)
    alice = person(authenticated_at=setting.clock.now)
    assert setting.permit(alice) == Permit(None, 60.0)
    setting.clock.advance(59)
    assert setting.permit(alice) == Permit(None, 1.0)
    setting.clock.advance(1)
    assert setting.permit(alice) == Permit(frozenset({OPEN.name}))
    assert setting.permit(person(authenticated_at=setting.clock.now - 10)) == Permit(None, 50.0), (
        "another login is another caller"
    )


def test_a_refusal_is_raised_anew_each_time() -> None:
    setting = Setting(CLOSED)
    alice, raised = person(), []
    for _ in range(2):
        with pytest.raises(ServiceError) as caught:
            setting.permits.permit(alice, ASK)
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert (raised[1].reason, raised[1].param) == (Reason.MODEL_FORBIDDEN, "model")
    assert raised[0].message == raised[1].message


def test_what_is_remembered_is_bounded() -> None:
    setting = Setting(OPEN, most=3)
    callers = [person() for _ in range(9)]
    for caller in (*callers, *callers):
        assert setting.permit(caller) == Permit(None)
    assert len(setting.permits._remembered) == 3


def test_an_open_endpoint_is_judged_when_its_worker_has_reported() -> None:
    setting = Setting(dataclasses.replace(CLOSED, models=()))
    alice, member = person(), person(groups=frozenset({"g"}))
    assert setting.permit(member) is Reason.MODEL_NOT_FOUND
    server = Server(CLOSED.name, "i", Answerer(), {"m": ""}, ready=True)
    setting.roster.add(server)
    assert (setting.permit(alice), setting.permit(member)) == (Reason.MODEL_FORBIDDEN, Permit(None))
    setting.roster.remove(server)
    assert setting.permit(alice) is Reason.MODEL_FORBIDDEN, "it is missed, and still not for everybody"


def test_until_the_router_has_settled_an_unknown_model_may_come_and_nothing_is_permitted_before() -> None:
    setting = Setting(OPEN, settle=10)
    alice, ask = person(), Ask(CHAT, "other")
    assert setting.permit(alice, ask) == Permit(frozenset())
    setting.clock.advance(10)
    assert setting.permit(alice, ask) is Reason.MODEL_NOT_FOUND


def test_what_is_seen_does_not_depend_on_maintenance() -> None:
    setting = Setting(OPEN)
    assert setting.permits.sees(person(), "m", "one", "vllm") == Permit(None)
    assert setting.permits.sees(person(), "no") is None


@settings(max_examples=60)
@given(
    st.lists(PRINCIPALS, min_size=1, max_size=3),
    st.lists(ASKS, min_size=1, max_size=3),
    st.lists(st.one_of(catalogues(), st.sampled_from([0.0, 5.0, 60.0])), max_size=6),
)
def test_what_is_remembered_is_what_would_be_decided(
    principals: list[Principal], asks: list[Ask], changes: list[Catalogue | float]
) -> None:
    clock = Clock()
    roster = Roster(settle=0, clock=clock.time)
    roster.set_catalogue(Catalogue())
    permits = Permits(roster, clock=clock.time, most=4)
    for change in changes:
        if isinstance(change, Catalogue):
            roster.set_catalogue(change)
        else:
            clock.advance(change)
        for principal in principals:
            for ask in asks:
                assert roster.catalogue is not None
                serving = roster.serving(ask.model, ask.cluster, ask.framework)
                decision = decide(principal, ask, roster.catalogue, serving, clock.time())
                if decision.error is not None:
                    with pytest.raises(ServiceError) as caught:
                        permits.permit(principal, ask)
                    assert (caught.value.reason, caught.value.message) == (
                        decision.error.reason,
                        decision.error.message,
                    )
                    continue
                permit = permits.permit(principal, ask)
                assert permit.lasts == decision.until - clock.time()
                for endpoint in serving or ():
                    assert permit.allows(endpoint.name) is (endpoint.name in decision.endpoints)
