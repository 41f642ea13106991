"""What a database's failures are told as."""

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError, TimeoutError

from services.core.errors import Reason, ServiceError
from services.runtime.database import explained


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
