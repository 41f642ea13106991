"""Usage records between protos and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp
from weft.usage.v1 import usage_pb2

DAY: Final = 86400
_MOST_TOKENS: Final = 2**53
"""More than any call can use: a sum of such still fits a database's numbers."""
_LONGEST: Final = 1024


def to_rows(record: usage_pb2.CallRecord) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A row of the calls, and those of its groups."""
    started = to_seconds(record.start_time)
    row = {
        "id": record.id,
        "request_id": _text(record.request_id),
        "principal": _text(record.principal),
        "model": _text(record.model),
        "route": _text(record.route),
        "endpoint": _text(record.endpoint),
        "operation": _text(record.operation),
        "outcome": _text(record.outcome),
        "status": min(record.status, 999),
        "started_at": started,
        "first_byte_at": to_seconds(record.first_byte_time) if record.HasField("first_byte_time") else None,
        "ended_at": to_seconds(record.end_time),
        "day": int(started // DAY),
        "input_tokens": min(record.input_tokens, _MOST_TOKENS),
        "output_tokens": min(record.output_tokens, _MOST_TOKENS),
        "cached_tokens": min(record.cached_tokens, _MOST_TOKENS),
        "estimated": record.estimated,
        "streamed": record.streamed,
        "credential_kind": min(record.credential_kind, 99),
    }
    names = sorted({_text(group) for group in record.groups} - {""})
    return row, [{"call": record.id, "name": name, "started_at": started} for name in names]


def to_record(row: sa.Row[Any], groups: Sequence[str]) -> usage_pb2.CallRecord:
    """A row of the calls as it was recorded."""
    record = usage_pb2.CallRecord(
        id=row.id,
        request_id=row.request_id,
        principal=row.principal,
        groups=groups,
        model=row.model,
        route=row.route,
        endpoint=row.endpoint,
        operation=row.operation,
        outcome=row.outcome,
        status=row.status,
        start_time=_timestamp(row.started_at),
        end_time=_timestamp(row.ended_at),
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        estimated=row.estimated,
        streamed=row.streamed,
        credential_kind=row.credential_kind,
    )
    if row.first_byte_at is not None:
        record.first_byte_time.CopyFrom(_timestamp(row.first_byte_at))
    return record


def _text(text: str) -> str:
    """As every database takes it: PostgreSQL refuses a NUL, and would refuse it for ever."""
    return text[:_LONGEST].replace("\0", "\N{REPLACEMENT CHARACTER}")


def to_seconds(stamp: Timestamp) -> float:
    """Since 1970."""
    return stamp.seconds + stamp.nanos / 1e9


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1_000_000))
    return stamp
