"""The RPC edge of the usage records."""

# ruff: noqa: N802  gRPC names the methods.
from __future__ import annotations

import base64
import datetime
import re
from typing import Annotated, Any, Final

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from weft.usage.v1 import usage_pb2 as pb
from weft.usage.v1 import usage_pb2_grpc

from services.auth.usage.messages import DAY, to_record, to_rows, to_seconds
from services.auth.usage.store import Filter, Sum, UsageStore
from services.core.errors import Reason, ServiceError
from services.core.principal import Role
from services.rpc.boundary import Access, caller
from services.rpc.paging import page_size

SERVICE: Final = "weft.usage.v1.UsageService"

_KNOWN: Final = frozenset({Role.USER, Role.ADMIN, Role.SERVICE})
ACCESS: Final[Access] = {
    f"/{SERVICE}/RecordCalls": frozenset({Role.SERVICE}),
    f"/{SERVICE}/SumUsage": _KNOWN,
    f"/{SERVICE}/ListCalls": _KNOWN,
}

_MOST_RECORDS: Final = 10_000
_ID: Final = re.compile(r"[0-9a-f]{32}")
_LAST_SECOND: Final = 253_402_300_799
"""Of the year 9999: a `Timestamp` holds none behind it, and no database's day does."""
_DayNumber = Annotated[int, msgspec.Meta(ge=0, le=_LAST_SECOND // DAY)]
_DIMENSIONS: Final = {
    pb.DIMENSION_PRINCIPAL: "principal",
    pb.DIMENSION_GROUP: "group",
    pb.DIMENSION_MODEL: "model",
    pb.DIMENSION_DAY: "day",
    pb.DIMENSION_ENDPOINT: "endpoint",
    pb.DIMENSION_OPERATION: "operation",
}

_Context = Any  # grpc.aio.ServicerContext; none of the methods uses it.


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """`weft.usage.v1.UsageService`, whose proto says what each method does."""

    def __init__(self, store: UsageStore) -> None:
        self._store = store

    async def RecordCalls(self, request: pb.RecordCallsRequest, context: _Context) -> pb.RecordCallsResponse:
        if len(request.records) > _MOST_RECORDS:
            message = f"'records' must be at most {_MOST_RECORDS}."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="records")
        rows, memberships = [], []
        for record in request.records:
            _check(record)
            row, groups = to_rows(record)
            rows.append(row)
            memberships += groups
        await self._store.record(rows, memberships)
        return pb.RecordCallsResponse()

    async def SumUsage(self, request: pb.SumUsageRequest, context: _Context) -> pb.SumUsageResponse:
        by = [_DIMENSIONS.get(dimension, "") for dimension in request.by]
        if not all(by) or len(set(by)) < len(by):
            message = "'by' must name known dimensions, each once."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="by")
        size = page_size(request.page_size)
        after = _from_token(request.page_token, tuple(_DayNumber if name == "day" else str for name in by))
        sums = await self._store.sums(by, _allowed(request.filter), after=after, limit=size + 1)
        page = sums[:size]
        token = _to_token(page[-1].keys) if len(sums) > size else ""
        return pb.SumUsageResponse(rows=[_to_row(by, one) for one in page], next_page_token=token)

    async def ListCalls(self, request: pb.ListCallsRequest, context: _Context) -> pb.ListCallsResponse:
        size = page_size(request.page_size)
        after = _from_token(request.page_token, (float, str))
        begin = (float(after[0]), str(after[1])) if after else None
        found = await self._store.page(_allowed(request.filter), after=begin, limit=size + 1)
        page = found[:size]
        groups = await self._store.groups_of([row.id for row in page])
        token = _to_token((page[-1].started_at, page[-1].id)) if len(found) > size else ""
        return pb.ListCallsResponse(
            records=[to_record(row, groups.get(row.id, ())) for row in page], next_page_token=token
        )


def _check(record: pb.CallRecord) -> None:
    """A record that is wrong is refused for what it says, so that its sender knows not to send it again."""
    if _ID.fullmatch(record.id) is None:
        raise ServiceError(Reason.ARGUMENT_INVALID, "'records.id' must be 16 bytes in hex.", param="records.id")
    for field in ("principal", "operation", "outcome"):
        if not getattr(record, field):
            message = f"'records.{field}' must not be empty."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param=f"records.{field}")
    for field in ("start_time", "end_time"):
        if _time(record, field, "records") is None:
            message = f"'records.{field}' must be set."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param=f"records.{field}")
    _time(record, "first_byte_time", "records")


def _time(message: pb.CallRecord | pb.CallFilter, field: str, inside: str) -> float | None:
    """A time, in seconds since 1970; None if it is not set. Raises ARGUMENT_INVALID for one of no calendar."""
    if not message.HasField(field):  # type: ignore[arg-type]
        return None
    stamp: Timestamp = getattr(message, field)
    if not 0 <= stamp.seconds <= _LAST_SECOND:
        told = f"'{inside}.{field}' must be from the years 1970 to 9999."
        raise ServiceError(Reason.ARGUMENT_INVALID, told, param=f"{inside}.{field}")
    return to_seconds(stamp)


def _allowed(asked: pb.CallFilter) -> Filter:
    """What the caller may hear of: an administrator of all, anybody else of themselves. Raises ACTION_FORBIDDEN."""
    who = caller()
    principal = asked.principal
    if Role.ADMIN not in who.roles:
        if asked.group:
            message = "The usage of a group is for administrators; leave the group out to see your own."
            raise ServiceError(Reason.ACTION_FORBIDDEN, message)
        if principal not in ("", who.name):
            message = "The usage of others is for administrators; leave the user out to see your own."
            raise ServiceError(Reason.ACTION_FORBIDDEN, message)
        principal = who.name
    since, until = _time(asked, "start_time", "filter"), _time(asked, "end_time", "filter")
    return Filter(since, until, principal, asked.group, asked.model)


def _to_row(by: list[str], one: Sum) -> pb.UsageRow:
    keys = [_day(int(key)) if name == "day" else str(key) for name, key in zip(by, one.keys, strict=True)]
    return pb.UsageRow(
        keys=keys,
        calls=one.calls,
        failed_calls=one.failed,
        input_tokens=one.input_tokens,
        output_tokens=one.output_tokens,
        cached_tokens=one.cached_tokens,
    )


def _day(number: int) -> str:
    return datetime.datetime.fromtimestamp(number * DAY, datetime.UTC).date().isoformat()


def _to_token(keys: tuple[str | int | float, ...]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(keys)).decode()


def _from_token(token: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """The keys of the last row of the page before. Raises ARGUMENT_INVALID for what no such page has given."""
    if not token:
        return ()
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token.encode("ascii")), type=tuple[kinds])  # type: ignore[valid-type]
    except (ValueError, msgspec.MsgspecError):
        message = "'page_token' must be the 'next_page_token' of an answer to the same request; leave it out to begin."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="page_token") from None
