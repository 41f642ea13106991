"""The tables of the usage records."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from services.runtime.database import NAME

VERSION_TABLE: Final = "usage_version"
"""Of its own, so that the records may share auth's database or have one to themselves."""

metadata: Final = sa.MetaData()

calls: Final = sa.Table(
    "usage_calls",
    metadata,
    sa.Column("id", NAME, primary_key=True),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("principal", NAME, nullable=False),
    sa.Column("model", NAME, nullable=False),
    sa.Column("route", NAME, nullable=False),
    sa.Column("endpoint", NAME, nullable=False),
    sa.Column("operation", NAME, nullable=False),
    sa.Column("outcome", NAME, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("first_byte_at", sa.Double),
    sa.Column("ended_at", sa.Double, nullable=False),
    sa.Column("day", sa.Integer, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("estimated", sa.Boolean, nullable=False),
    sa.Column("streamed", sa.Boolean, nullable=False),
    sa.Column("credential_kind", sa.Integer, nullable=False),
    sa.Index("usage_calls_time", "started_at", "id"),
    sa.Index("usage_calls_principal", "principal", "started_at"),
    sa.Index("usage_calls_model", "model", "started_at"),
)
"""`day` is of the start, in UTC, in days since 1970: databases differ in how they reckon with dates."""

groups: Final = sa.Table(
    "usage_groups",
    metadata,
    sa.Column("call", NAME, sa.ForeignKey("usage_calls.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", NAME, primary_key=True),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Index("usage_groups_name", "name", "started_at", "call"),
)
"""The groups that a call's caller was in. The time stands here too, so that a group's month is found by one index."""
