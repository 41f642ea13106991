"""Who hears what of usage, page by page."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from weft.usage.v1 import usage_pb2 as pb

from services.auth.usage.servicer import UsageServicer
from services.auth.usage.store import UsageStore, open_usage
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal, Role
from services.rpc import boundary

ADMIN = Principal("users/admin", frozenset({Role.USER, Role.ADMIN}))
ADA = Principal("users/ada", frozenset({Role.USER}))


@pytest.fixture
async def servicer(tmp_path: Path) -> AsyncIterator[UsageServicer]:
    """With two calls of Ada's and one of Bob's."""
    store = UsageStore(open_usage("", tmp_path / "usage.db"))
    served = UsageServicer(store)
    records = [record(1), record(2, model="mistral"), record(3, principal="users/bob")]
    await served.RecordCalls(pb.RecordCallsRequest(records=records), None)
    yield served
    await store.close()


def record(number: int, **fields: Any) -> pb.CallRecord:
    told = {"principal": "users/ada", "model": "llama", "operation": "/v1/completions", "outcome": "ok", **fields}
    one = pb.CallRecord(id=f"{number:032x}", **told)
    one.start_time.FromSeconds(1_000_000 + number)
    one.end_time.FromSeconds(1_000_000 + number)
    return one


def as_caller(principal: Principal) -> None:
    boundary._caller.set(principal)


async def refusal(awaited: Any) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await awaited
    return refused.value


async def test_a_user_hears_of_themselves_and_an_administrator_of_all(servicer: UsageServicer) -> None:
    by = [pb.DIMENSION_PRINCIPAL]
    as_caller(ADA)
    assert [row.keys[0] for row in (await servicer.SumUsage(pb.SumUsageRequest(by=by), None)).rows] == ["users/ada"]
    assert {one.principal for one in (await servicer.ListCalls(pb.ListCallsRequest(), None)).records} == {"users/ada"}
    for asked in (pb.CallFilter(principal="users/bob"), pb.CallFilter(group="groups/a")):
        error = await refusal(servicer.SumUsage(pb.SumUsageRequest(filter=asked), None))
        assert error.reason is Reason.ACTION_FORBIDDEN
        error = await refusal(servicer.ListCalls(pb.ListCallsRequest(filter=asked), None))
        assert error.reason is Reason.ACTION_FORBIDDEN
    as_caller(ADMIN)
    rows = (await servicer.SumUsage(pb.SumUsageRequest(by=by), None)).rows
    assert [(row.keys[0], row.calls) for row in rows] == [("users/ada", 2), ("users/bob", 1)]


async def test_pages(servicer: UsageServicer) -> None:
    as_caller(ADMIN)
    sums = pb.SumUsageRequest(by=[pb.DIMENSION_DAY, pb.DIMENSION_PRINCIPAL, pb.DIMENSION_MODEL], page_size=2)
    first = await servicer.SumUsage(sums, None)
    sums.page_token = first.next_page_token
    second = await servicer.SumUsage(sums, None)
    assert [list(row.keys) for row in (*first.rows, *second.rows)] == [
        ["1970-01-12", "users/ada", "llama"],
        ["1970-01-12", "users/ada", "mistral"],
        ["1970-01-12", "users/bob", "llama"],
    ]
    assert second.next_page_token == ""
    calls = pb.ListCallsRequest(page_size=2)
    seen = await servicer.ListCalls(calls, None)
    calls.page_token = seen.next_page_token
    assert [one.id for one in (await servicer.ListCalls(calls, None)).records] == [record(3).id]
    for token in ("nonsense", first.next_page_token):
        calls.page_token = token
        error = await refusal(servicer.ListCalls(calls, None))
        assert (error.reason, error.param) == (Reason.ARGUMENT_INVALID, "page_token")


async def test_what_is_wrong_is_refused(servicer: UsageServicer) -> None:
    as_caller(ADMIN)
    for by in ([pb.DIMENSION_UNSPECIFIED], [pb.DIMENSION_DAY, pb.DIMENSION_DAY], [99]):
        assert (await refusal(servicer.SumUsage(pb.SumUsageRequest(by=by), None))).param == "by"
    for wrong in (pb.CallRecord(id="x"), record(1, principal=""), record(1, outcome="")):
        refused = await refusal(servicer.RecordCalls(pb.RecordCallsRequest(records=[wrong]), None))
        assert refused.reason is Reason.ARGUMENT_INVALID
    many = pb.RecordCallsRequest(records=[record(number) for number in range(10_001)])
    assert (await refusal(servicer.RecordCalls(many, None))).param == "records"
