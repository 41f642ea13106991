"""Which models a caller is told of that no server serves yet."""

import json

from services.core.catalogue import Availability, Catalogue, Cluster, Endpoint, ModelBinding
from services.core.globus import GlobusBackend, GlobusFunction, LaunchPolicy
from services.core.principal import Permissions, Principal
from services.router.models import list_models
from services.router.permits import Permits
from services.router.roster import Roster
from tests.testing.clock import Clock

COLD = "clusters/one/endpoints/cold"


def listed(endpoint: Endpoint, caller: str = "users/ada") -> list[str]:
    roster = Roster(settle=0, clock=Clock().time)
    roster.set_catalogue(Catalogue.of([Cluster("clusters/one"), endpoint]))
    principal = Principal(caller, permissions=Permissions(("*",)))
    data = json.loads(list_models(roster, Permits(roster), principal, "/v1/models"))["data"]
    return [card["id"] for card in data]


def cold(serves: str = "", availability: Availability = Availability.ACTIVE) -> Endpoint:
    launch = LaunchPolicy(GlobusFunction("e"), serves=serves)
    return Endpoint(COLD, GlobusBackend(launch=launch), models=(ModelBinding("m"),), availability=availability)


def test_a_model_that_a_call_starts_is_listed() -> None:
    assert listed(cold()) == ["m"]
    assert listed(Endpoint(COLD, GlobusBackend(), models=(ModelBinding("m"),))) == [], "nobody starts a worker there"


def test_a_model_that_is_closed_is_not() -> None:
    assert listed(cold(availability=Availability.DRAINING)) == []


def test_a_model_that_serves_one_person_is_listed_for_that_one() -> None:
    assert listed(cold(serves="users/ada")) == ["m"]
    assert listed(cold(serves="users/bob")) == []
