"""The keeper and its carrier: what comes of wants, crashes, lost leases and the ends of jobs, round by round."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.core.catalogue import Catalogue
from services.core.globus import CallMode
from services.launcher.config import LauncherConfig
from services.launcher.starts import Start, StartState
from tests.testing.launch_world import AUTH_AWAY, CONFIG, ENDPOINT, GLOBUS_AWAY, READY, Launcher, Site, busy, slots

LEASE = LauncherConfig().lease_life_s


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.endpoint()
    return site


@asynccontextmanager
async def launching(site: Site, name: str = "a") -> AsyncIterator[Launcher]:
    launcher = await Launcher(site, name).open()
    try:
        yield launcher
    finally:
        await launcher.close()


@pytest.fixture
async def launcher(site: Site) -> AsyncIterator[Launcher]:
    async with launching(site) as launcher:
        yield launcher


async def serving(launcher: Launcher) -> Start:
    """A start whose worker takes calls."""
    await launcher.want(1)
    await launcher.round()
    (start,) = await launcher.starts()
    (run,) = launcher.site.globus.runs
    launcher.site.globus.accept(run, "task-1")
    launcher.site.sessions.see({start.id: READY})
    await launcher.round(1)
    await launcher.want(0)
    (start,) = await launcher.starts()
    assert start.state is StartState.READY
    return start


async def test_a_thousand_calls_at_three_routers_start_one_worker(launcher: Launcher) -> None:
    for router in ("r1", "r2", "r3"):
        await launcher.want(1000, router)
    for _ in range(5):
        await launcher.round(1)
    assert slots(await launcher.starts()) == [(0, "PENDING")]
    (run,) = launcher.site.globus.runs
    assert run.payload["enrolment_token"] == f"token of {run.payload['start']}"


async def test_a_start_is_kept_before_anything_is_submitted(launcher: Launcher) -> None:
    kept: list[Start | None] = []
    issue = launcher.site.auth.issue

    async def noted(start: str, endpoint: str, *, lifetime: float, serves: str) -> str:
        kept.append(await launcher.store.find(start))
        return await issue(start, endpoint, lifetime=lifetime, serves=serves)

    launcher.site.auth.issue = noted  # type: ignore[method-assign]
    await launcher.want(1)
    await launcher.round()
    while not launcher.site.globus.runs:
        await launcher.round()
    (start,) = await launcher.starts()
    assert kept == [start]


async def test_a_crash_before_the_task_is_known_submits_the_same_start_again(site: Site) -> None:
    first = await Launcher(site, "a").open()
    await first.want(1)
    await first.round()
    site.globus.accept(site.globus.runs[0], "task-1")  # and the launcher is gone before it writes that
    await first.crash()
    async with launching(site, "b") as second:
        await second.round()
        assert len(site.globus.runs) == 1, "the lease is the other's until it has been silent"
        await second.want(1)
        await second.round(LEASE)
        (start,) = await second.starts()
        assert [run.payload["start"] for run in site.globus.runs] == [start.id] * 2, "auth admits one of the two"


async def test_a_crash_after_the_task_is_known_submits_nothing_again(site: Site) -> None:
    first = await Launcher(site, "a").open()
    await serving(first)
    site.sessions.see({})
    await first.crash()
    async with launching(site, "b") as second:
        await second.round()
        await second.round(LEASE)
        assert slots(await second.starts()) == [(0, "READY")]
        site.globus.over["task-1"] = {"outcome": "walltime"}
        await second.round(1)
        assert len(site.globus.runs) == 1


async def test_a_paused_holder_changes_nothing_when_it_wakes(site: Site) -> None:
    async with launching(site, "a") as first, launching(site, "b") as second:
        start = await serving(first)
        await second.round()
        await second.round(LEASE)  # the first has been paused since
        site.globus.runs[0].answer.set_result({"outcome": "vllm_failed", "detail": "no GPU"})
        await first.round()
        assert (await second.starts())[0].state is StartState.READY, "it is the second's to say"
        assert not first.carrier.events
        await second.round()
        assert [kept.id for kept in await second.starts()] == [start.id]
        await first.want(1)
        await first.round(1)
        assert len(site.globus.runs) == 1


async def test_a_job_that_ends_is_replaced_before_and_then_let_go(launcher: Launcher) -> None:
    start, sessions = await serving(launcher), launcher.site.sessions
    end = launcher.site.clock.now + 3600
    sessions.see({start.id: busy(job_end=end)})
    await launcher.round(1)
    assert slots(await launcher.starts()) == [(0, "READY")]
    launcher.site.clock.now = end - CONFIG.replace_before_s
    await launcher.round()
    assert slots(await launcher.starts()) == [(0, "READY"), (1, "PENDING")]
    heir = (await launcher.starts())[1]
    launcher.site.globus.accept(launcher.site.globus.runs[1], "task-2")
    both = {start.id: busy(job_end=end), heir.id: busy(job_end=end + 3600)}
    sessions.see(both)
    await launcher.round(1)
    assert slots(await launcher.starts()) == [(0, "READY"), (1, "READY")], "streams at the old one go on"
    sessions.see(both | {start.id: replace(busy(job_end=end), draining=True)})
    await launcher.round(1)
    sessions.see({heir.id: busy(job_end=end + 3600)})
    launcher.site.globus.runs[0].answer.set_result({"outcome": "walltime"})
    await launcher.round(1)
    await launcher.round(1)
    assert slots(await launcher.starts()) == [(0, "GONE"), (1, "READY")]
    assert len(launcher.site.globus.runs) == 2


async def test_an_idle_worker_is_stopped_once_and_its_start_revoked(launcher: Launcher) -> None:
    start = await serving(launcher)
    await launcher.round(CONFIG.idle_time_s - 2)
    assert launcher.site.sessions.stopped == []
    await launcher.round(3)
    await launcher.round(1)
    assert launcher.site.sessions.stopped == ["i"]
    launcher.site.sessions.see({})
    launcher.site.globus.runs[0].answer.set_result({"outcome": "stopped"})
    for _ in range(3):
        await launcher.round(1)
    assert slots(await launcher.starts()) == [(0, "GONE")]
    assert start.id not in launcher.site.auth.admits
    assert await launcher.settled()


async def test_an_endpoint_that_leaves_the_catalogue_has_its_worker_stopped(launcher: Launcher) -> None:
    await serving(launcher)
    launcher.site.catalogue = Catalogue()
    await launcher.round(1)
    assert slots(await launcher.starts()) == [(0, "DRAINING")]
    assert launcher.site.sessions.stopped == ["i"]
    assert launcher.board.get(ENDPOINT) is None


async def test_a_failure_is_told_and_waits_its_turn(launcher: Launcher) -> None:
    await launcher.want(1)
    await launcher.round()
    launcher.site.globus.runs[0].answer.set_result({"outcome": "vllm_failed", "detail": "no GPU"})
    await launcher.round(1)
    await launcher.round()
    state = launcher.board.get(ENDPOINT)
    assert state is not None
    assert state.failed
    assert "no GPU" in state.detail
    assert 0 < state.retry_after <= CONFIG.first_backoff_s
    assert len(launcher.site.globus.runs) == 1
    await launcher.want(1)
    await launcher.round(CONFIG.first_backoff_s)
    assert slots(await launcher.starts()) == [(0, "FAILED"), (0, "PENDING")]


async def test_an_error_of_ours_ends_the_start_and_not_the_waiting(launcher: Launcher) -> None:
    launcher.site.auth.fails.append(RuntimeError("a bug"))
    await launcher.want(1)
    await launcher.round()
    await launcher.round()
    (start,) = await launcher.starts()
    assert start.state is StartState.FAILED
    assert "RuntimeError" in start.detail
    await launcher.want(1)
    await launcher.round(CONFIG.first_backoff_s)
    assert len(launcher.site.globus.runs) == 1, "the next attempt is made"


async def test_while_auth_is_away_a_start_that_is_over_is_not_revoked_each_round(launcher: Launcher) -> None:
    await launcher.want(1)
    await launcher.round()
    await launcher.want(0)
    launcher.site.globus.runs[0].answer.set_result({"outcome": "vllm_failed"})
    asked: list[str] = []

    async def revoke(start: str) -> None:
        asked.append(start)
        if len(asked) < 3:
            raise AUTH_AWAY

    launcher.site.auth.revoke = revoke  # type: ignore[method-assign]
    for _ in range(9):
        await launcher.round(1)
    assert len(asked) == 2
    for _ in range(9):
        await launcher.round(1)
    await launcher.round()
    assert len(asked) == 3
    assert await launcher.settled()


# Calls as tasks


async def test_a_start_by_tasks_that_is_given_up_in_the_queue_leaves_no_vllm_behind(launcher: Launcher) -> None:
    site = launcher.site
    site.endpoint(CallMode.TASK)
    await launcher.want(1)
    await launcher.round()
    (run,) = site.globus.runs
    site.globus.accept(run, "task-1")
    await launcher.round(1)
    (start,) = await launcher.starts()
    assert start.state is StartState.QUEUED
    await launcher.store.ask_stop(start.id, "somebody asked")
    await launcher.want(0)
    await launcher.round(1)
    assert slots(await launcher.starts()) == [(0, "GONE")]
    (stop,) = site.globus.of("stop")
    assert stop.payload["start"] == start.id
    for _ in range(30):
        await launcher.round(10)
    assert not await launcher.settled(), "its job is in the queue, and would hold its node"
    stop.answer.set_result({"stopped": True})
    await launcher.round(1)
    await launcher.round(10)
    await launcher.round(1)
    assert await launcher.settled()
    assert len(site.globus.of("stop")) == 1


async def test_a_task_that_is_over_has_no_node_asked(launcher: Launcher) -> None:
    site = launcher.site
    site.endpoint(CallMode.TASK)
    await launcher.want(1)
    await launcher.round()
    site.globus.accept(site.globus.runs[0], "task-1")
    await launcher.round(1)
    site.globus.over["task-1"] = result = {"outcome": "vllm_failed"}
    site.globus.runs[0].answer.set_result(result)
    for _ in range(3):
        await launcher.round(6)
    assert (await launcher.starts())[0].state is StartState.FAILED
    assert site.globus.of("stop") == [], "a task for a job that is gone would have another one begun"
    assert await launcher.settled()


async def test_a_node_that_answers_is_served_by_tasks_until_its_start_drains(launcher: Launcher) -> None:
    site = launcher.site
    site.endpoint(CallMode.TASK)
    await launcher.want(1)
    await launcher.round()
    site.globus.accept(site.globus.runs[0], "task-1")
    await launcher.round(1)
    (state,) = site.globus.of("state")
    state.answer.set_result({"state": "ready"})
    await launcher.round(1)
    await launcher.round(1)
    (start,) = await launcher.starts()
    assert [worker.start for worker in launcher.followed.now] == [start.id]
    await launcher.store.ask_stop(start.id, "somebody asked")
    await launcher.round(1)
    assert launcher.followed.now == ()
    assert len(site.globus.of("stop")) == 1


async def test_a_launcher_that_closes_has_another_act_at_once(site: Site) -> None:
    async with launching(site, "a") as first:
        await serving(first)
    async with launching(site, "b") as second:
        await second.round()
        assert second.keeper._fence is not None
        assert slots(await second.starts()) == [(0, "READY")]


async def test_while_globus_is_away_a_start_waits_and_says_so(launcher: Launcher) -> None:
    await launcher.want(1)
    await launcher.round()
    launcher.site.globus.runs[0].answer.set_exception(GLOBUS_AWAY)
    await launcher.round(1)
    await launcher.round(1)
    (start,) = await launcher.starts()
    assert (start.state, start.detail) == (StartState.PENDING, "Globus is away.")


@pytest.mark.parametrize("router_was_away", [True, False])
async def test_a_router_that_was_away_itself_makes_no_endpoint_one_of_tasks(
    launcher: Launcher, router_was_away: bool
) -> None:
    launcher.site.endpoint(CallMode.AUTO)
    launcher.site.sessions.away = router_was_away
    await launcher.want(1)
    await launcher.round()
    launcher.site.globus.runs[0].answer.set_result({"outcome": "router_unreachable", "detail": "no route"})
    await launcher.round(1)
    await launcher.want(1)
    await launcher.round(CONFIG.first_backoff_s)
    first, second = await launcher.starts()
    assert (first.state, first.counts, second.tasks) == (StartState.FAILED, router_was_away, not router_was_away)
