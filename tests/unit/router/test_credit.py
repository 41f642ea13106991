"""A client's credit, in any order of what may happen: nobody ever sends more than was granted, and nothing is lost."""

from __future__ import annotations

import random

import pytest

from services.router.credit import Credit


class Played:
    """A call played at random: its client grants, comments are made, servers come, fail, and at last one answers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.granted = self.random.choice([0, 3, 100, 1000, 1 << 18])
        self.received = 0
        self.at_server: int | None = None
        self.credit = Credit(self.granted, shared=True)

    def grant(self) -> None:
        size = self.random.randrange(1, 1 << self.random.randrange(1, 17))
        self.granted += size
        more = self.credit.grant(size)
        if self.at_server is None:
            assert more == 0
        else:
            self.at_server += more

    def comment(self) -> None:
        size = self.random.randrange(1, 400)
        if size <= self.credit.room:
            self.credit.comment(size)
            self.received += size

    def move(self) -> None:
        if self.at_server is None:
            self.at_server = self.credit.lend()
            assert self.at_server > 0 or self.credit.left == 0, "a server that may send nothing, beside comments"
        else:
            self.at_server = None
            self.credit.take_back()

    def send(self) -> None:
        assert self.at_server is not None
        size = self.random.randrange(self.at_server + 1)
        self.at_server -= size
        self.received += size
        self.credit.left -= size
        if self.credit.left <= self.credit.kept:
            self.at_server += self.credit.release()

    def check(self) -> None:
        assert self.received + (self.at_server or 0) + self.credit.kept <= self.granted
        assert self.credit.left == self.granted - self.received
        assert self.at_server is None or self.at_server == self.credit.lent


@pytest.mark.parametrize("seed", range(100))
def test_no_order_of_events_sends_more_than_was_granted_or_loses_any(seed: int) -> None:
    played = Played(seed)
    for _ in range(100):
        played.random.choice([played.grant, played.comment, played.move])()
        played.check()
    if played.at_server is None:
        played.move()
    played.credit.begin()
    for _ in range(100):
        played.random.choice([played.grant, played.send])()
        played.check()
    while played.credit.left:
        played.send()
        played.check()
    assert played.received == played.granted, "the client has not had what it could have"


def test_there_are_comments_though_a_call_begins_without_credit() -> None:
    credit = Credit(0, shared=True)
    assert (credit.lend(), credit.room) == (0, 0)
    assert credit.grant(1000) == 750
    assert credit.room == 250


def test_what_comments_have_used_up_is_kept_anew_for_the_next_server() -> None:
    credit = Credit(1 << 18, shared=True)
    credit.lend()
    credit.comment(credit.room)
    credit.take_back()
    credit.lend()
    assert credit.room == 4096


def test_a_call_without_comments_keeps_nothing() -> None:
    credit = Credit(100, shared=False)
    assert (credit.lend(), credit.grant(10)) == (100, 10)
