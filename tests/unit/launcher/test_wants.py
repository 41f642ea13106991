"""What becomes of a want: kept, and looked at at once where nothing is under way."""

from __future__ import annotations

from typing import Any, cast

import pytest
from weft.launcher.v1 import launcher_pb2 as pb

from services.core.catalogue import Catalogue, Endpoint, SessionBackend
from services.core.errors import Reason, ServiceError
from services.core.globus import GlobusBackend, GlobusFunction, LaunchPolicy
from services.launcher.board import Board
from services.launcher.servicer import LauncherServicer
from services.launcher.starts import StartState
from services.launcher.states import EndpointState
from services.launcher.store import Store

COLD = "clusters/c/endpoints/cold"
WORKERS = "clusters/c/endpoints/workers"
PLACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Wants:
    """What of the store a want touches."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, int]] = []
        self.traceparent = ""

    async def say_want(self, endpoint: str, router: str, waiting: int, now: float, traceparent: str = "") -> None:
        self.said.append((endpoint, router, waiting))
        self.traceparent = traceparent


class Desk:
    """A servicer over a catalogue with an endpoint that is launched, and one that is not."""

    def __init__(self) -> None:
        catalogue = Catalogue.of(
            [
                Endpoint(COLD, GlobusBackend(launch=LaunchPolicy(GlobusFunction("e")))),
                Endpoint(WORKERS, SessionBackend()),
            ]
        )
        self.wants, self.board, self.woken = Wants(), Board(), 0
        self.servicer = LauncherServicer(
            cast(Store, self.wants), self.board, cast(Any, None), lambda: catalogue, self.wake, clock=lambda: 0.0
        )

    def wake(self) -> None:
        self.woken += 1

    async def want(self, endpoint: str) -> pb.EndpointState:
        answer = await self.servicer.Want(pb.WantRequest(endpoint=endpoint, router="r", waiting=3), None)
        return answer.state


async def test_the_first_want_has_the_launcher_look_at_once() -> None:
    desk = Desk()
    desk.board.publish({COLD: EndpointState(COLD)})
    assert (await desk.want(COLD)).endpoint == COLD
    assert (desk.wants.said, desk.woken) == ([(COLD, "r", 3)], 1)


async def test_an_endpoint_that_was_made_a_moment_ago_is_wanted_too() -> None:
    desk = Desk()
    assert (await desk.want(COLD)).endpoint == COLD
    assert (desk.wants.said, desk.woken) == ([(COLD, "r", 3)], 1)


async def test_a_want_for_what_is_under_way_only_is_kept() -> None:
    desk = Desk()
    desk.board.publish({COLD: EndpointState(COLD, StartState.QUEUED)})
    assert (await desk.want(COLD)).state == pb.START_STATE_QUEUED
    assert (desk.wants.said, desk.woken) == ([(COLD, "r", 3)], 0)


@pytest.mark.parametrize("endpoint", [WORKERS, "clusters/c/endpoints/none"])
async def test_an_endpoint_without_a_launch_policy_is_told_so(endpoint: str) -> None:
    desk = Desk()
    with pytest.raises(ServiceError, match="no launch policy") as refusal:
        await desk.want(endpoint)
    assert refusal.value.reason is Reason.RESOURCE_NOT_FOUND
    assert desk.wants.said == []


@pytest.mark.parametrize(
    ("said", "kept"),
    [(PLACE, PLACE), ("", ""), ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", ""), ("x" * 10_000, "")],
)
async def test_the_trace_of_a_call_that_waits_is_kept_if_it_is_one(said: str, kept: str) -> None:
    desk = Desk()
    await desk.servicer.Want(pb.WantRequest(endpoint=COLD, router="r", waiting=3, traceparent=said), None)
    assert desk.wants.traceparent == kept
