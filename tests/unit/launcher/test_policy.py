"""How many workers an endpoint is to have, case by case and by its laws."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.launcher.policy import Action, Backoff, GiveUp, Launch, Policy, Stop, Use, backoff, decide
from services.launcher.starts import Start, StartState

NOW = 100_000.0
COLD = Policy(idle_time=600, queue_time=3600, replace_before=900)


def start(identity: str, state: StartState = StartState.READY, slot: int = 0, **fields: object) -> Start:
    made = Start(identity, "clusters/c/endpoints/e", slot, created_at=NOW - 2000, state=state)
    if state in (StartState.STARTING, StartState.READY, StartState.DRAINING):
        made = msgspec.structs.replace(made, attached_at=NOW - 1500)
    if state in (StartState.READY, StartState.DRAINING):
        made = msgspec.structs.replace(made, ready_at=NOW - 1000)
    return msgspec.structs.replace(made, **fields)


def act(
    policy: Policy,
    live: Sequence[Start] = (),
    waiting: int = 0,
    use: Mapping[str, Use] | None = None,
    resting: Backoff = Backoff(),  # noqa: B008
    asked: Mapping[str, str] | None = None,
) -> list[Action]:
    return decide(policy, live, waiting, use or {}, resting, NOW, asked=asked)


BUSY, IDLE = Use(1, NOW), Use(0, NOW - 700)
PENDING, QUEUED, STARTING = StartState.PENDING, StartState.QUEUED, StartState.STARTING
DRAINING, READY = StartState.DRAINING, StartState.READY
ENDS_SOON = {"job_end": NOW + 800}


@pytest.mark.parametrize("waiting", [1, 2, 1000])
def test_however_many_wait_one_worker_is_started(waiting: int) -> None:
    assert act(COLD, waiting=waiting) == [Launch(0)]


@pytest.mark.parametrize("state", [PENDING, QUEUED, STARTING, READY])
def test_no_second_one_while_the_first_is_under_way(state: StartState) -> None:
    assert act(replace(COLD, max_workers=5), [start("a", state)], waiting=1000, use={"a": BUSY}) == []


def test_nothing_is_started_for_nobody() -> None:
    assert act(COLD) == []


def test_the_minimum_is_started_at_once_in_slots_of_its_own() -> None:
    assert act(replace(COLD, min_workers=3, max_workers=4)) == [Launch(0), Launch(1), Launch(2)]
    live = [start("b", slot=1, state=QUEUED)]
    assert act(replace(COLD, min_workers=3, max_workers=4), live) == [Launch(0), Launch(2)]


@pytest.mark.parametrize(
    ("waiting", "open_calls", "expected"), [(0, 8, 0), (0, 16, 1), (1, 8, 1), (9, 8, 2), (100, 8, 3)]
)
def test_calls_beyond_what_one_worker_is_to_take_start_more_up_to_the_maximum(
    waiting: int, open_calls: int, expected: int
) -> None:
    policy = replace(COLD, calls_per_worker=8, max_workers=4)
    actions = act(policy, [start("a")], waiting, {"a": Use(open_calls, NOW)})
    assert actions == [Launch(slot) for slot in range(1, expected + 1)]


def test_a_worker_without_calls_is_stopped() -> None:
    (action,) = act(COLD, [start("a")], use={"a": IDLE})
    assert action == Stop("a", "it has had no call for 10 minutes")


@pytest.mark.parametrize(
    ("policy", "use"),
    [
        (COLD, BUSY),
        (COLD, Use(0, NOW - 599)),
        (replace(COLD, keep_warm=True), IDLE),
        (replace(COLD, min_workers=1), IDLE),
        (replace(COLD, idle_time=1001), IDLE),
    ],
    ids=["it has a call", "it had one lately", "it is kept warm", "the minimum needs it", "it is ready since less"],
)
def test_a_worker_stays(policy: Policy, use: Use) -> None:
    assert act(policy, [start("a")], use={"a": use}) == []


def test_a_worker_that_no_router_has_told_of_yet_is_not_idle() -> None:
    assert act(COLD, [start("a")]) == []


def test_of_idle_workers_the_longest_idle_go_and_the_minimum_stays() -> None:
    live = [start(name, slot=slot) for slot, name in enumerate("abc")]
    use = {"a": Use(0, NOW - 700), "b": Use(0, NOW - 900), "c": Use(0, NOW - 800)}
    actions = act(replace(COLD, max_workers=3, min_workers=1), live, use=use)
    assert [action.start for action in actions if isinstance(action, Stop)] == ["b", "c"]
    kept = act(replace(COLD, max_workers=3, keep_warm=True), live, use=use)
    assert [action.start for action in kept if isinstance(action, Stop)] == ["b", "c"]


def test_a_job_near_its_end_is_replaced_before_in_another_slot() -> None:
    live = [start("a", **ENDS_SOON)]
    assert act(COLD, live, use={"a": BUSY}) == [Launch(1)]
    heir = start("b", QUEUED, slot=1, created_at=NOW - 10)
    assert act(replace(COLD, max_workers=4), [*live, heir], use={"a": BUSY}) == []
    ready = msgspec.structs.replace(heir, state=READY, ready_at=NOW - 5)
    assert act(replace(COLD, max_workers=4), [*live, ready], use={"a": BUSY, "b": Use(0, NOW - 5)}) == []


def test_a_job_near_its_end_that_nobody_uses_is_not_replaced_unless_the_minimum_asks() -> None:
    live = [start("a", **ENDS_SOON)]
    assert act(COLD, live, use={"a": IDLE}) == []
    assert act(replace(COLD, keep_warm=True), live, use={"a": IDLE}) == []
    assert act(replace(COLD, min_workers=1), live, use={"a": IDLE}) == [Launch(1)]


def test_an_idle_worker_takes_over_from_one_that_ends_and_is_not_stopped() -> None:
    live = [start("a", **ENDS_SOON), start("b", slot=1)]
    assert act(replace(COLD, max_workers=2), live, use={"a": BUSY, "b": IDLE}) == []


def test_a_job_shorter_than_the_time_for_its_replacement_is_replaced_at_half() -> None:
    short = start("a", attached_at=NOW - 100, ready_at=NOW - 90, job_end=NOW + 200)
    assert act(COLD, [short], use={"a": BUSY}) == []
    half = start("a", attached_at=NOW - 100, ready_at=NOW - 90, job_end=NOW + 99)
    assert act(COLD, [half], use={"a": BUSY}) == [Launch(1)]


def test_a_call_that_comes_while_the_last_worker_drains_starts_another_in_another_slot() -> None:
    assert act(COLD, [start("a", DRAINING)], waiting=1) == [Launch(1)]


def test_never_more_than_one_above_the_maximum() -> None:
    live = [start("a", DRAINING), start("b", slot=1, **ENDS_SOON)]
    assert act(COLD, live, waiting=5, use={"b": BUSY}) == []


@pytest.mark.parametrize("state", [PENDING, QUEUED])
def test_a_job_that_waits_too_long_is_given_up(state: StartState) -> None:
    late = start("a", state, created_at=NOW - 3600)
    assert act(COLD, [late], waiting=1)[0] == GiveUp("a", "no worker of its job attached within 60 minutes")


def test_a_worker_whose_vllm_never_answers_is_given_up() -> None:
    (action,) = act(replace(COLD, start_time=1500), [start("a", STARTING, detail="loading")])
    assert isinstance(action, GiveUp)
    assert action.why.endswith(": loading")


def test_what_somebody_asked_for_is_done_once() -> None:
    asked = {"a": "asked by users/ada", "b": "asked by users/ada", "c": "asked by users/ada"}
    live = [start("a"), start("b", QUEUED, slot=1), start("c", DRAINING, slot=2)]
    actions = act(replace(COLD, max_workers=3), live, use={"a": BUSY}, asked=asked)
    assert actions == [Stop("a", asked["a"]), GiveUp("b", asked["b"], failed=False)]


def test_where_workers_may_not_be_started_those_that_are_there_stay() -> None:
    policy = replace(COLD, min_workers=2, max_workers=2, closed="the cluster is under maintenance")
    assert act(policy, [start("a")], waiting=3, use={"a": BUSY}) == []


def test_an_endpoint_that_is_gone_has_its_workers_stopped() -> None:
    live = [start("a"), start("b", QUEUED, slot=1), start("c", slot=2, **ENDS_SOON)]
    actions = act(replace(COLD, max_workers=0), live, use={"a": BUSY, "c": BUSY}, waiting=1)
    assert {action.start for action in actions if not isinstance(action, Launch)} == {"a", "b", "c"}
    assert len(actions) == 3


def test_a_lower_maximum_ends_those_that_have_come_least_far() -> None:
    live = [start("a"), start("b", QUEUED, slot=1)]
    (action,) = act(COLD, live, use={"a": BUSY})
    assert action == GiveUp("b", "its endpoint is to have fewer workers", failed=False)


def failure(seconds_ago: float, **fields: object) -> Start:
    return start("f", StartState.FAILED, ended_at=NOW - seconds_ago, detail="no GPU", **fields)


def test_each_failure_in_a_row_doubles_the_pause_up_to_the_longest() -> None:
    policy = replace(COLD, first_backoff=10, longest_backoff=60)
    pauses = [backoff(policy, [failure(5)] * count, NOW).until - (NOW - 5) for count in range(1, 6)]
    assert pauses == [10, 20, 40, 60, 60]
    assert backoff(policy, [failure(5)], NOW).why == "no GPU"
    assert backoff(policy, [], NOW) == Backoff()


def test_a_success_ends_the_row_and_what_does_not_count_is_passed_over() -> None:
    policy = replace(COLD, first_backoff=10, longest_backoff=60)
    gone = start("g", StartState.GONE, ended_at=NOW - 50)
    assert backoff(policy, [failure(5), gone, failure(60)], NOW).failures == 1
    assert backoff(policy, [failure(5, counts=False), failure(6)], NOW).failures == 1
    served = failure(5, ready_at=NOW - 5 - 60)
    assert backoff(policy, [served], NOW) == Backoff(), "it served long; its end is no sign that the next one fails"


def test_a_clock_that_was_set_back_makes_no_pause_of_days() -> None:
    policy = replace(COLD, first_backoff=10, longest_backoff=60)
    assert backoff(policy, [failure(-86_400)], NOW) == Backoff()
    assert backoff(policy, [failure(-1)], NOW).until == NOW + 11


def test_a_worker_by_tasks_whose_job_is_over_is_over_though_nothing_tells_of_it() -> None:
    over = {"job_end": NOW - 60}
    assert act(COLD, [start("a", tasks=True, **over)]) == [GiveUp("a", "the time of its job is over", failed=False)]
    assert act(COLD, [start("a", **over)], use={"a": IDLE}) == [], "a session's end is seen"


def test_nothing_is_started_during_a_pause() -> None:
    assert act(replace(COLD, min_workers=1), waiting=9, resting=Backoff(1, NOW + 0.1, "")) == []
    assert act(COLD, waiting=9, resting=Backoff(1, NOW, "")) == [Launch(0)]


# Laws

policies = st.builds(
    Policy,
    min_workers=st.integers(0, 3),
    max_workers=st.integers(1, 4),
    calls_per_worker=st.integers(0, 4),
    idle_time=st.sampled_from([0.0, 10.0, 600.0]),
    keep_warm=st.booleans(),
    replace_before=st.sampled_from([0.0, 50.0, 900.0]),
    queue_time=st.sampled_from([100.0, 3600.0]),
    closed=st.sampled_from(["", "", "", "maintenance"]),
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Start], dict[str, Use]]:
    states = draw(st.lists(st.sampled_from([PENDING, QUEUED, STARTING, READY, READY, DRAINING]), max_size=5))
    live = [
        start(
            str(slot),
            state,
            slot,
            created_at=NOW - draw(st.sampled_from([1.0, 150.0, 2000.0])),
            job_end=draw(st.sampled_from([None, NOW + 30, NOW + 5000])) if state >= STARTING else None,
        )
        for slot, state in enumerate(states)
    ]
    used = st.builds(Use, st.integers(0, 5), st.sampled_from([NOW, NOW - 20, NOW - 700]))
    return live, {one.id: draw(used) for one in live if one.state >= STARTING}


def after(live: Sequence[Start], actions: Sequence[Action]) -> list[Start]:
    """The starts, once the actions are done."""
    kept = {one.id: one for one in live}
    for action in actions:
        match action:
            case Launch(slot):
                kept[f"new {slot}"] = start(f"new {slot}", PENDING, slot, created_at=NOW)
            case Stop(identity):
                kept[identity] = msgspec.structs.replace(kept[identity], state=DRAINING)
            case GiveUp(identity):
                del kept[identity]
    return list(kept.values())


@given(policies, situations(), st.integers(0, 20))
def test_never_above_the_maximum_but_for_one_that_replaces_another(
    policy: Policy, situation: tuple[list[Start], dict[str, Use]], waiting: int
) -> None:
    live, use = situation
    actions = act(policy, live, waiting, use)
    launched = sum(isinstance(action, Launch) for action in actions)
    if launched:
        assert len(live) + launched <= policy.max_workers + 1
        is_leaving = any(one.state is DRAINING or one.job_end is not None for one in live)
        gone = any(not isinstance(action, Launch) for action in actions)
        if not is_leaving and not gone:
            assert len(live) + launched <= policy.max_workers


@given(policies, situations(), st.integers(0, 20))
def test_slots_are_given_only_when_free_and_each_start_is_ended_at_most_once(
    policy: Policy, situation: tuple[list[Start], dict[str, Use]], waiting: int
) -> None:
    live, use = situation
    actions = act(policy, live, waiting, use)
    slots = [action.slot for action in actions if isinstance(action, Launch)]
    assert len(set(slots)) == len(slots)
    assert not set(slots) & {one.slot for one in live}
    named = [action.start for action in actions if not isinstance(action, Launch)]
    assert len(set(named)) == len(named)
    assert not set(named) & {one.id for one in live if one.state is DRAINING}


@given(policies, st.integers(1, 1000), situations())
def test_a_call_that_waits_has_a_start_unless_none_may_be_made(
    policy: Policy, waiting: int, situation: tuple[list[Start], dict[str, Use]]
) -> None:
    live = [one for one in situation[0] if one.state is DRAINING]
    actions = act(policy, live, waiting)
    may = not policy.closed and len(live) < policy.max_workers + bool(live)
    assert any(isinstance(action, Launch) for action in actions) == may


@given(policies, situations(), st.integers(0, 20))
def test_what_is_done_is_not_asked_for_again(
    policy: Policy, situation: tuple[list[Start], dict[str, Use]], waiting: int
) -> None:
    live, use = situation
    for _ in range(4):
        if not (actions := act(policy, live, waiting, use)):
            return
        before = {one.id for one in live}
        live = after(live, actions)
        ended = {action.start for action in actions if not isinstance(action, Launch)}
        again = act(policy, live, waiting, use)
        assert not ended & {action.start for action in again if not isinstance(action, Launch)}
        started = {one.id for one in live} - before
        assert not started & {action.start for action in again if not isinstance(action, Launch)}, "no flapping"
    assert act(policy, live, waiting, use) == []
