"""The tables of the launcher's database."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from services.runtime.database import NAME

HEAD: Final = "0002"
"""The newest of `migrations/versions`; a test holds the two together."""

VERSION_TABLE: Final = "launcher_version"
"""Named so that the launcher may share a database with registry and auth."""

metadata: Final = sa.MetaData()

starts: Final = sa.Table(
    "launcher_starts",
    metadata,
    sa.Column("id", NAME, primary_key=True),
    sa.Column("endpoint", NAME, nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double, index=True),
    sa.Column("settled", sa.Boolean, nullable=False, index=True),
    sa.Column("stop_why", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Index("launcher_starts_by_endpoint", "endpoint", "created_at"),
)
"""`settled` once nothing is left to do for a start; `stop_why` is written by whoever wants it stopped, `content` by the
holder of the lease alone.
"""
sa.Index(
    "launcher_live_slots",
    starts.c.endpoint,
    starts.c.slot,
    unique=True,
    postgresql_where=starts.c.ended_at.is_(None),
    sqlite_where=starts.c.ended_at.is_(None),
)

lease: Final = sa.Table(
    "launcher_lease",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
wants: Final = sa.Table(
    "launcher_wants",
    metadata,
    sa.Column("endpoint", NAME, primary_key=True),
    sa.Column("router", sa.Text, primary_key=True),
    sa.Column("waiting", sa.Integer, nullable=False),
    sa.Column("said_at", sa.Double, nullable=False),
    sa.Column("traceparent", sa.Text, nullable=False, server_default=""),
)
"""`traceparent` is that of one of the calls that wait; empty if none is traced."""
task_mode: Final = sa.Table(
    "launcher_task_mode",
    metadata,
    sa.Column("endpoint", NAME, primary_key=True),
    sa.Column("since", sa.Double, nullable=False),
)
"""Endpoints whose nodes cannot reach a router, so that their calls travel as tasks."""
