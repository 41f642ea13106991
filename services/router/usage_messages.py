"""Usage records as protos."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from weft.usage.v1 import usage_pb2

from services.router.usage_log import CallRecord


def to_proto(record: CallRecord) -> usage_pb2.CallRecord:
    """The record as it travels to auth."""
    proto = usage_pb2.CallRecord(
        id=record.id,
        request_id=record.request_id,
        principal=record.principal,
        groups=record.groups,
        model=record.model,
        route=record.route,
        endpoint=record.endpoint,
        operation=record.operation,
        outcome=record.outcome,
        status=record.status,
        start_time=_timestamp(record.started),
        end_time=_timestamp(record.ended),
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        cached_tokens=record.cached_tokens,
        estimated=record.estimated,
        streamed=record.streamed,
        credential_kind=record.credential_kind,
    )
    if record.first_byte is not None:
        proto.first_byte_time.CopyFrom(_timestamp(record.first_byte))
    return proto


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1_000_000))
    return stamp
