"""Who hears what of usage, page by page."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from weft.usage.v1 import usage_pb2 as pb

from services.auth.usage.servicer import UsageServicer, _to_token
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


async def test_by_group_a_user_hears_of_their_own_calls_in_their_own_groups(servicer: UsageServicer) -> None:
    together = [
        record(4, groups=["groups/a"]),
        record(5, principal="users/bob", groups=["groups/a", "groups/b"]),
    ]
    await servicer.RecordCalls(pb.RecordCallsRequest(records=together), None)
    sums = pb.SumUsageRequest(by=[pb.DIMENSION_GROUP, pb.DIMENSION_PRINCIPAL])
    as_caller(ADA)
    rows = (await servicer.SumUsage(sums, None)).rows
    assert [(*row.keys, row.calls) for row in rows] == [("", "users/ada", 2), ("groups/a", "users/ada", 1)]
    as_caller(ADMIN)
    assert [row.keys[0] for row in (await servicer.SumUsage(sums, None)).rows] == [
        "",
        "",
        *["groups/a"] * 2,
        "groups/b",
    ]


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
    from_a_mad_clock, answered_by_one = record(1), record(1)
    from_a_mad_clock.start_time.seconds = 1 << 60
    answered_by_one.first_byte_time.seconds = -1
    wrongs = (pb.CallRecord(id="x"), record(1, principal=""), record(1, outcome=""), from_a_mad_clock, answered_by_one)
    for wrong in wrongs:
        refused = await refusal(servicer.RecordCalls(pb.RecordCallsRequest(records=[wrong]), None))
        assert refused.reason is Reason.ARGUMENT_INVALID
    asked = pb.CallFilter(end_time=Timestamp(seconds=1 << 60))
    assert (await refusal(servicer.ListCalls(pb.ListCallsRequest(filter=asked), None))).param == "filter.end_time"
    day = pb.SumUsageRequest(by=[pb.DIMENSION_DAY], page_token=_to_token((10**30,)))
    assert (await refusal(servicer.SumUsage(day, None))).param == "page_token"
    many = pb.RecordCallsRequest(records=[record(number) for number in range(10_001)])
    assert (await refusal(servicer.RecordCalls(many, None))).param == "records"
