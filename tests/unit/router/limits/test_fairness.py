"""What one of several may take of a shared quota."""

from hypothesis import given
from hypothesis import strategies as st

from services.router.limits.fairness import fair_room

USES = st.lists(st.integers(0, 500), min_size=1, max_size=8)


@given(st.integers(1, 1000), USES)
def test_nobody_takes_more_than_is_free(limit: int, uses: list[int]) -> None:
    room = fair_room(limit, sum(uses), uses[0], uses[1:], len(uses))
    assert 0 <= room <= max(limit - sum(uses), 0)


@given(st.integers(1, 1000), USES)
def test_the_unused_shares_of_others_are_kept_or_one_stays_within_its_own(limit: int, uses: list[int]) -> None:
    room = fair_room(limit, sum(uses), uses[0], uses[1:], len(uses))
    if room > 0:
        free = limit - sum(uses) - room
        kept = sum(max(limit // len(uses) - use, 0) for use in uses[1:])
        assert free >= kept or uses[0] + room <= -(-limit // len(uses))


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_who_is_alone_may_take_all(limit: int, used: int) -> None:
    assert fair_room(limit, used, used, [], 1) == max(limit - used, 0)


@given(st.integers(1, 1000), USES)
def test_what_is_free_is_never_kept_from_everybody(limit: int, uses: list[int]) -> None:
    rooms = [fair_room(limit, sum(uses), use, uses[:i] + uses[i + 1 :], len(uses)) for i, use in enumerate(uses)]
    assert (max(rooms) > 0) == (sum(uses) < limit)


def test_a_newcomer_has_its_share_before_the_greedy_one() -> None:
    assert fair_room(1000, 900, 900, [0], 2) == 0
    assert fair_room(1000, 900, 0, [900], 2) == 100
