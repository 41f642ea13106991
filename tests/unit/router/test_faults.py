"""Which ends of calls the router's log tells."""

import logging
from dataclasses import dataclass

import pytest

from services.core.inference import Request
from services.core.tracing import TraceContext, new_root
from services.router.faults import tell_fault


@dataclass
class Ended:
    request: Request
    started: float = 0.0
    first_byte_at: float | None = None
    attempts: int = 1
    context: TraceContext | None = None


@pytest.mark.parametrize(
    ("outcome", "told"),
    [("ok", False), ("cancelled", False), ("requests_exhausted", False), ("field_invalid", False), ("no_worker", True)],
)
def test_the_log_tells_what_an_operator_can_mend(outcome: str, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        tell_fault(Ended(Request("/v1/chat/completions", (("x-request-id", "r1"),), b"")), outcome)
    assert [record.message for record in caplog.records] == (
        [f"call r1 ended with {outcome} after 1 attempts"] if told else []
    )


def test_what_is_told_of_a_traced_call_leads_to_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    context = new_root(sampled=True)
    tell_fault(Ended(Request("/v1/chat/completions", (), b""), context=context), "no_worker")
    (said,) = caplog.records
    assert (said.__dict__["trace_id"], said.__dict__["span_id"]) == (context.trace_id, context.span_id)
