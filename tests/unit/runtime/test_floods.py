"""Floods of the same: told once, then as a number; bounded memory."""

from services.runtime import floods
from services.runtime.floods import Floods


def test_the_same_is_told_once_and_then_as_a_number() -> None:
    same: Floods[str] = Floods()
    assert [same.note("a", now) for now in (0, 1, 59)] == [True, False, False]
    assert same.note("b", 30)
    assert same.due(59) == ([], 0)
    assert same.due(60) == ([("a", 2)], 0)
    assert same.note("a", 61), "a new minute"
    assert same.due(1000) == ([], 0), "of what came once there is no more to tell"


def test_many_different_ones_are_only_counted() -> None:
    many: Floods[int] = Floods()
    told = sum(many.note(number, 0) for number in range(floods.MOST + 500))
    assert told == floods.MOST
    assert not many.note(floods.MOST + 1, 10)
    assert many.due(60) == ([], 501)
    assert many.due(120) == ([], 0)
    assert many.note(1, 120)
