"""What one of several may take of a shared quota."""

from hypothesis import given
from hypothesis import strategies as st

from services.router.limits.fairness import UnusedShares, fair_room, unused_shares

USES = st.lists(st.integers(0, 500), min_size=1, max_size=8)


def _room(limit: int, mine: int, others: list[int]) -> int:
    active = len(others) + 1
    return fair_room(limit, mine + sum(others), mine, unused_shares(limit // active, others), active)


@given(st.integers(1, 1000), st.lists(st.integers(0, 50), min_size=1, max_size=5), st.data())
def test_the_sum_is_kept_up_to_date(kept: int, uses: list[int], data: st.DataObject) -> None:
    unused = UnusedShares()
    assert unused.of_all(kept, uses) == unused_shares(kept, uses)
    for _ in range(data.draw(st.integers(0, 8))):
        index = data.draw(st.integers(0, len(uses) - 1))
        before, uses[index] = uses[index], data.draw(st.integers(0, 2 * kept))
        unused.changed(before, uses[index])
    assert unused.of_all(kept, ()) == unused_shares(kept, uses)
    assert unused.of_all(kept + 1, uses) == unused_shares(kept + 1, uses)


@given(st.integers(1, 1000), USES)
def test_nobody_takes_more_than_is_free(limit: int, uses: list[int]) -> None:
    room = _room(limit, uses[0], uses[1:])
    assert 0 <= room <= max(limit - sum(uses), 0)


@given(st.integers(1, 1000), USES)
def test_the_unused_shares_of_others_are_kept_or_one_stays_within_its_own(limit: int, uses: list[int]) -> None:
    room = _room(limit, uses[0], uses[1:])
    if room > 0:
        free = limit - sum(uses) - room
        kept = sum(max(limit // len(uses) - use, 0) for use in uses[1:])
        assert free >= kept or uses[0] + room <= -(-limit // len(uses))


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_who_is_alone_may_take_all(limit: int, used: int) -> None:
    assert fair_room(limit, used, used, 0, 1) == max(limit - used, 0)


@given(st.integers(1, 1000), USES)
def test_what_is_free_is_never_kept_from_everybody(limit: int, uses: list[int]) -> None:
    rooms = [_room(limit, use, uses[:i] + uses[i + 1 :]) for i, use in enumerate(uses)]
    assert (max(rooms) > 0) == (sum(uses) < limit)


def test_a_newcomer_has_its_share_before_the_greedy_one() -> None:
    assert _room(1000, 900, [0]) == 0
    assert _room(1000, 0, [900]) == 100
