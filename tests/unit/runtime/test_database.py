"""What a database's failures are told as."""

import stat
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError, TimeoutError

from services.core.errors import Reason, ServiceError
from services.runtime.database import explained, open_database


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
