"""What the router's log tells of the limits' store."""

import logging

import pytest

from services.router.limits.desk import Desk
from services.router.limits.exchange import Answer, Exchange, StoreAwayError


class Failing:
    """A store that fails, in these words one after the other."""

    def __init__(self, *words: str) -> None:
        self._words = list(words)

    async def exchange(self, question: Exchange) -> Answer:
        raise StoreAwayError(self._words.pop(0))

    async def close(self) -> None:
        pass


async def test_why_the_store_is_away_is_told_once_and_anew_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(Failing("refused", "refused", "wrong password", "wrong password"), "r", lambda: 0.0, list)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            await desk.trip()
    assert [record.message for record in caplog.records] == [
        "the limits' store is away: refused",
        "the limits' store is away: wrong password",
    ]
