"""Which ends of calls the router's log tells."""

import logging
from dataclasses import dataclass

import pytest

from services.core.inference import Request
from services.router.metrics import count_call


@dataclass
class Ended:
    request: Request
    started: float = 0.0
    first_byte_at: float | None = None
    attempts: int = 1


@pytest.mark.parametrize(
    ("outcome", "told"),
    [("ok", False), ("cancelled", False), ("requests_exhausted", False), ("field_invalid", False), ("no_worker", True)],
)
def test_the_log_tells_what_an_operator_can_mend(outcome: str, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        count_call(Ended(Request("/v1/chat/completions", (("x-request-id", "r1"),), b"")), outcome, 1.0)
    assert [record.message for record in caplog.records] == (
        [f"call r1 ended with {outcome} after 1 attempts"] if told else []
    )
