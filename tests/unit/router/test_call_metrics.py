"""What is counted of a call, by its record."""

from typing import Any

import msgspec
import pytest

from services.core.errors import Reason, ServiceError
from services.core.measures import Family, Spread
from services.router.call_metrics import MOST_ROUTES, CallMetrics
from services.router.usage_log import CallRecord

ENDPOINT = "clusters/a/endpoints/b"
STREAMED = CallRecord(
    principal="users/ada",
    model="llama",
    endpoint=ENDPOINT,
    operation="/v1/chat/completions",
    outcome="ok",
    status=200,
    started=100.0,
    first_byte=100.5,
    ended=102.5,
    input_tokens=64,
    output_tokens=21,
    cached_tokens=16,
    streamed=True,
)


def metrics(*models: str) -> CallMetrics:
    return CallMetrics(lambda: {"llama", *models}, lambda: {ENDPOINT})


def noted(*records: CallRecord) -> dict[str, Family]:
    """What is shown after these."""
    counted = metrics()
    for record in records:
        counted.record(record)
    return {family.name: family for family in counted.families()}


def seen(family: Family) -> dict[tuple[str, ...], Any]:
    """Counters as they are, distributions as how many and their sum; those without any are left out."""
    return {
        labels: (sum(value.counts), pytest.approx(value.total)) if isinstance(value, Spread) else value
        for labels, value in family.rows
        if not isinstance(value, Spread) or sum(value.counts)
    }


def changed(**fields: Any) -> CallRecord:
    return msgspec.structs.replace(STREAMED, **fields)


def test_a_streamed_answer() -> None:
    shown = noted(STREAMED)
    call = ("chat", "llama", ENDPOINT)
    assert seen(shown["weft_router_calls_total"]) == {(*call, "ok", "none"): 1}
    assert seen(shown["gen_ai_server_request_duration_seconds"]) == {call: (1, 2.5)}
    assert seen(shown["gen_ai_server_time_to_first_token_seconds"]) == {call: (1, 0.5)}
    assert seen(shown["gen_ai_server_time_per_output_token_seconds"]) == {call: (1, 0.1)}
    assert seen(shown["gen_ai_client_token_usage"]) == {(*call, "input"): (1, 64), (*call, "output"): (1, 21)}
    assert seen(shown["weft_router_cached_tokens_total"]) == {call: 16}


def test_a_whole_answer_has_no_first_token_of_its_own() -> None:
    shown = noted(changed(streamed=False))
    assert len(seen(shown["gen_ai_server_request_duration_seconds"])) == 1
    assert seen(shown["gen_ai_server_time_to_first_token_seconds"]) == {}
    assert seen(shown["gen_ai_server_time_per_output_token_seconds"]) == {}


def test_an_answer_that_broke_off_has_a_first_token_and_no_duration() -> None:
    shown = noted(changed(outcome="worker_lost", estimated=True))
    assert seen(shown["gen_ai_server_request_duration_seconds"]) == {}
    assert len(seen(shown["gen_ai_server_time_to_first_token_seconds"])) == 1
    assert seen(shown["gen_ai_client_token_usage"]) == {}
    assert seen(shown["weft_router_estimated_calls_total"]) == {("chat", "llama", ENDPOINT): 1}


@pytest.mark.parametrize(
    ("fields", "outcome", "fault"),
    [
        ({"outcome": "cancelled"}, "cancelled", "none"),
        ({"outcome": "requests_exhausted", "status": 429, "first_byte": None}, "requests_exhausted", "caller"),
        ({"outcome": "no_worker", "status": 503, "first_byte": None}, "no_worker", "mesh"),
        ({"outcome": "worker_lost"}, "worker_lost", "mesh"),
        ({"status": 400}, "upstream_4xx", "caller"),
        ({"status": 503}, "upstream_5xx", "mesh"),
    ],
)
def test_whose_fault_it_was(fields: dict[str, Any], outcome: str, fault: str) -> None:
    rows = noted(changed(**fields))["weft_router_calls_total"].rows
    assert rows == [(("chat", "llama", ENDPOINT, outcome, fault), 1)]


def test_an_error_of_the_model_server_says_nothing_of_how_fast_it_is() -> None:
    shown = noted(changed(status=503))
    assert {name for name, family in shown.items() if seen(family)} == {"weft_router_calls_total"}


def test_a_clock_that_is_set_back_takes_nothing_off_a_sum() -> None:
    shown = noted(changed(ended=99.0))
    assert seen(shown["weft_router_calls_total"])
    assert seen(shown["gen_ai_server_request_duration_seconds"]) == {}


def test_what_callers_invent_is_other() -> None:
    shown = noted(
        *(changed(model=f"invented-{number}") for number in range(100)),
        *(changed(operation=f"/v1/invented-{number}") for number in range(100)),
        *(changed(endpoint=f"clusters/a/endpoints/gone-{number}") for number in range(100)),
    )
    assert seen(shown["weft_router_calls_total"]) == {
        ("chat", "other", ENDPOINT, "ok", "none"): 100,
        ("other", "llama", ENDPOINT, "ok", "none"): 100,
        ("chat", "llama", "other", "ok", "none"): 100,
    }


def test_so_many_routes_have_series_of_their_own() -> None:
    names = [f"model-{number}" for number in range(MOST_ROUTES + 10)]
    counted = metrics(*names)
    for name in names:
        counted.record(changed(model=name))
    (calls,) = (family for family in counted.families() if family.name == "weft_router_calls_total")
    routes = {labels[1] for labels, _ in calls.rows}
    assert routes == {*names[:MOST_ROUTES], "other"}


def test_retries_and_stalls() -> None:
    counted = metrics()
    counted.retried(ENDPOINT, ServiceError(Reason.WORKER_LOST))
    counted.retried("clusters/a/endpoints/gone", ServiceError(Reason.WORKER_LOST))
    counted.stalled(ENDPOINT)
    counted.turned_away(ServiceError(Reason.CREDENTIAL_INVALID))
    shown = {family.name: seen(family) for family in counted.families()}
    assert shown["weft_router_retries_total"] == {(ENDPOINT, "worker_lost"): 1, ("other", "worker_lost"): 1}
    assert shown["weft_router_credit_stalls_total"] == {(ENDPOINT,): 1}
    assert shown["weft_router_turned_away_total"] == {("credential_invalid",): 1}
