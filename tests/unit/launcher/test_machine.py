"""How a start goes from state to state."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.launcher import machine
from services.launcher.machine import SETTLE, Outcome, Queued, Seen
from services.launcher.starts import Start, StartState

NOW = 1000.0
PENDING, QUEUED, STARTING = StartState.PENDING, StartState.QUEUED, StartState.STARTING
READY, DRAINING, GONE, FAILED = StartState.READY, StartState.DRAINING, StartState.GONE, StartState.FAILED
FRESH = Start("a", "clusters/c/endpoints/e", 0, created_at=900.0)
LOADING, ANSWERS = Seen("i", detail="loading weights"), Seen("i", ready=True)


def queued(**fields: object) -> Start:
    return msgspec.structs.replace(machine.submitted(FRESH, "task-1", 910.0), **fields)


def ready(**fields: object) -> Start:
    return msgspec.structs.replace(machine.worker_seen(queued(), ANSWERS, 950.0), **fields)


def test_the_way_of_a_start_that_goes_well() -> None:
    start = machine.submitted(FRESH, "task-1", 910.0)
    assert (start.state, start.task, start.submitted_at) == (QUEUED, "task-1", 910.0)
    start = machine.queue_seen(start, Queued("77", position=3, expected_start=990.0))
    assert (start.job, start.queue_position, start.expected_start) == ("77", 3, 990.0)
    start = machine.queue_seen(start, Queued("77", running=True))
    assert (start.state, start.queue_position, start.expected_start) == (QUEUED, 0, None)
    start = machine.worker_seen(start, LOADING, 920.0)
    assert (start.state, start.attached_at, start.detail, start.instance) == (STARTING, 920.0, "loading weights", "i")
    start = machine.worker_seen(start, ANSWERS, 950.0)
    assert (start.state, start.attached_at, start.ready_at) == (READY, 920.0, 950.0)
    start = machine.draining(start, "it has had no call", 960.0)
    assert (start.state, start.detail) == (DRAINING, "it has had no call")
    start = machine.worker_seen(start, ANSWERS, 961.0)
    assert start.state is DRAINING, "a late report does not bring it back"
    start = machine.task_ended(start, Outcome("stopped"), 970.0)
    assert (start.state, start.ended_at, start.outcome, start.live) == (GONE, 970.0, "stopped", False)
    assert machine.revoked(start).revoked


def test_a_worker_may_attach_before_its_task_is_known_to_be_submitted() -> None:
    start = machine.worker_seen(FRESH, ANSWERS, NOW)
    assert start.state is READY
    start = machine.submitted(start, "task-1", NOW + 1)
    assert (start.state, start.task) == (READY, "task-1")


def test_a_ready_worker_whose_vllm_is_away_stays_ready_and_says_why() -> None:
    start = machine.worker_seen(ready(), Seen("i", detail="vLLM is restarting"), NOW)
    assert (start.state, start.detail) == (READY, "vLLM is restarting")
    assert machine.worker_seen(start, Seen("i", draining=True, detail="its job ends"), NOW).state is DRAINING


@pytest.mark.parametrize(
    ("seen", "walltime", "expected"),
    [(Seen("i", job_end=5000.0), 60.0, 5000.0), (Seen("i"), 60.0, NOW + 60), (Seen("i"), None, None)],
)
def test_when_the_job_ends(seen: Seen, walltime: float | None, expected: float | None) -> None:
    start = machine.worker_seen(queued(), seen, NOW, walltime=walltime)
    assert start.job_end == expected
    assert machine.worker_seen(start, Seen("i"), NOW + 30, walltime=walltime).job_end == expected


@pytest.mark.parametrize(
    ("start", "kind", "state"),
    [
        (queued(), "vllm_failed", FAILED),
        (queued(), "router_unreachable", FAILED),
        (queued(), "site_error", FAILED),
        (queued(), "something new", FAILED),
        (queued(), "stopped", FAILED),
        (queued(tasks=True), "stopped", GONE),
        (ready(), "stopped", GONE),
        (ready(), "walltime", GONE),
        (ready(), "vllm_failed", FAILED),
        (ready(state=DRAINING), "vllm_failed", GONE),
        (ready(), "refused", READY),
        (queued(), "refused", QUEUED),
    ],
)
def test_what_the_end_of_a_task_means(start: Start, kind: str, state: StartState) -> None:
    over = machine.task_ended(start, Outcome(kind, "why"), NOW)
    assert over.state is state
    if state is READY:
        assert over == start, "the one that was refused came second"
    else:
        assert "why" in over.detail


def test_a_refused_worker_fails_its_start_unless_another_is_seen_soon() -> None:
    start = machine.task_ended(queued(), Outcome("refused", "no"), NOW)
    assert machine.worker_missing(start, NOW + SETTLE - 1, lost_after=999).live
    assert machine.worker_missing(start, NOW + SETTLE, lost_after=999).state is FAILED
    seen = machine.worker_seen(start, ANSWERS, NOW + 1)
    assert machine.worker_missing(seen, NOW + SETTLE, lost_after=999).state is READY


def test_a_worker_that_is_missed_comes_back_or_is_lost() -> None:
    start = machine.worker_missing(ready(), NOW, lost_after=100)
    assert start.state is READY
    assert machine.worker_seen(start, ANSWERS, NOW + 99).absent_since is None
    assert machine.worker_missing(start, NOW + 99, lost_after=100).state is READY
    assert machine.worker_missing(start, NOW + 100, lost_after=100).state is FAILED


def test_one_that_drained_and_is_missed_is_gone() -> None:
    start = machine.worker_missing(machine.draining(ready(), "why", NOW), NOW, lost_after=100)
    assert start.state is DRAINING
    assert machine.worker_missing(start, NOW + SETTLE, lost_after=100).state is GONE


def test_a_lost_task_ends_a_start_only_without_its_worker() -> None:
    assert machine.task_failed(queued(), "offline", NOW, outcome="offline").state is FAILED
    start = machine.task_failed(ready(), "the agent was restarted", NOW, outcome="task_failed")
    assert start.state is READY
    start = machine.worker_missing(start, NOW, lost_after=100)
    over = machine.worker_missing(start, NOW + SETTLE, lost_after=100)
    assert (over.state, over.detail) == (FAILED, "the agent was restarted")


def test_a_node_of_tasks_tells_by_tasks() -> None:
    start = machine.node_seen(queued(tasks=True), "starting", "loading", NOW)
    assert (start.state, start.attached_at, start.detail) == (STARTING, NOW, "loading")
    assert machine.worker_missing(start, NOW + 999, lost_after=1) == start, "it has no session to be missed"
    start = machine.node_seen(start, "ready", "", NOW + 5)
    assert (start.state, start.ready_at) == (READY, NOW + 5)


def test_what_could_not_be_submitted_says_why() -> None:
    assert machine.delayed(FRESH, "Globus is away").detail == "Globus is away"
    assert machine.delayed(ready(), "Globus is away") == ready()


@pytest.mark.parametrize("result", [None, 7, [], "text"])
def test_a_result_that_cannot_be_read_is_the_sites_error(result: object) -> None:
    assert Outcome.read(result).kind == "site_error"


def test_a_result_is_read() -> None:
    result = {"outcome": "walltime", "detail": "d", "job": {"id": 77, "host": "n1"}, "log_tail": ["a", "b"]}
    assert Outcome.read(result) == Outcome("walltime", "d", "77", "n1", ("a", "b"))
    assert Outcome.read({"outcome": "stopped", "job": None, "log_tail": "x"}) == Outcome("stopped")


def test_what_a_node_says_is_kept_no_longer_than_its_use() -> None:
    result = {
        "outcome": "vllm_failed",
        "detail": "x" * 10**6,
        "job": {"id": "9" * 10**6},
        "log_tail": ["y" * 10**6] * 999,
    }
    read = Outcome.read(result)
    assert len(read.detail) == len(read.job) == len(read.log_tail[0]) == 1000
    assert len(read.log_tail) == 100


def test_a_clock_that_is_set_back_does_not_keep_a_worker_that_is_missed() -> None:
    start = machine.worker_missing(ready(), NOW, lost_after=100)
    start = machine.worker_missing(start, NOW - 86_400, lost_after=100)
    assert machine.worker_missing(start, NOW - 86_400 + 100, lost_after=100).state is FAILED


def test_the_job_of_a_worker_that_was_refused_is_not_that_of_the_one_at_work() -> None:
    start = ready(job="77", host="n1")
    assert machine.task_ended(start, Outcome("refused", "no", "78", "n2"), NOW) == start


events = st.sampled_from(
    [
        lambda start, now: machine.submitted(start, "task-1", now),
        lambda start, now: machine.delayed(start, "why"),
        lambda start, now: machine.queue_seen(start, Queued("77", position=2)),
        lambda start, now: machine.worker_seen(start, LOADING, now),
        lambda start, now: machine.worker_seen(start, ANSWERS, now),
        lambda start, now: machine.worker_missing(start, now, lost_after=50),
        lambda start, now: machine.task_ended(start, Outcome("stopped"), now),
        lambda start, now: machine.task_ended(start, Outcome("refused"), now),
        lambda start, now: machine.task_failed(start, "why", now, outcome="other"),
        lambda start, now: machine.draining(start, "why", now),
        lambda start, now: machine.failed(start, now, "why", outcome="given_up"),
        lambda start, now: machine.node_seen(start, "ready", "", now),
    ]
)


@given(st.lists(events, max_size=30), st.booleans())
def test_a_start_only_goes_on_and_what_is_over_stays(sequence: list[object], tasks: bool) -> None:
    start, now = msgspec.structs.replace(FRESH, tasks=tasks), NOW
    for event in sequence:
        now += 20
        before, start = start, event(start, now)  # type: ignore[operator]
        assert start.state >= before.state
        if not before.live:
            assert start == before
        assert start.live == (start.ended_at is None)
        assert not (start.state >= STARTING and start.live and start.state is not DRAINING) or start.has_worker
        times = [start.created_at, start.submitted_at, start.attached_at, start.ready_at, start.ended_at]
        known = [time for time in times if time is not None]
        assert known == sorted(known)
