"""What a database's failures are told as."""

import sqlite3
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError, TimeoutError
from sqlalchemy.util import greenlet_spawn

from services.core.errors import Reason, ServiceError
from services.runtime.database import _keep_a_wal, explained, open_database


@pytest.mark.parametrize(
    "failure",
    [
        OperationalError("SELECT 1", None, Exception("gone")),
        TimeoutError("all connections of the pool are taken"),
        ConnectionRefusedError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_database_that_does_not_answer_is_told_as_away(failure: Exception) -> None:
    with pytest.raises(ServiceError, match="away") as told, explained(Reason.AUTH_UNAVAILABLE, "It is away."):
        raise failure
    assert told.value.reason is Reason.AUTH_UNAVAILABLE


def test_a_fault_of_ours_stays_one() -> None:
    with pytest.raises(IntegrityError), explained(Reason.AUTH_UNAVAILABLE, "It is away."):
        raise IntegrityError("INSERT", None, Exception("twice"))


@pytest.mark.parametrize("by_url", [False, True])
async def test_a_file_is_for_its_owner_alone(tmp_path: Path, by_url: bool) -> None:
    """Auth's holds the keys that session tokens are signed with."""
    file = tmp_path / "home" / "some.db"
    engine = open_database(f"sqlite:///{file}" if by_url else "", file, setting="auth.database")
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE things (name TEXT PRIMARY KEY)"))
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in file.parent.iterdir()}
    await engine.dispose()
    assert "some.db" in modes
    assert set(modes.values()) == {0o600}


async def test_a_failure_does_not_tell_what_was_to_be_stored(tmp_path: Path) -> None:
    """Such errors are logged: the row may hold a private key."""
    engine = open_database("", tmp_path / "some.db", setting="auth.database")
    with pytest.raises(OperationalError) as failed:
        async with engine.begin() as connection:
            await connection.execute(sa.text("INSERT INTO nothing VALUES (:key)"), {"key": b"the secret"})
    await engine.dispose()
    assert "the secret" not in str(failed.value)


class Busy:
    """A cursor whose database others have just locked, for its first statements."""

    def __init__(self, times: int, code: int = sqlite3.SQLITE_BUSY) -> None:
        self.left = times
        self.code = code

    def execute(self, statement: str) -> None:
        if self.left:
            self.left -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error


async def test_of_several_that_open_a_fresh_database_none_is_told_that_it_is_locked():
    cursor = Busy(3)
    await greenlet_spawn(_keep_a_wal, cursor)
    assert cursor.left == 0


async def test_what_waiting_does_not_cure_is_told_at_once():
    cursor = Busy(3, sqlite3.SQLITE_READONLY)
    with pytest.raises(sqlite3.OperationalError):
        await greenlet_spawn(_keep_a_wal, cursor)
    assert cursor.left == 2
