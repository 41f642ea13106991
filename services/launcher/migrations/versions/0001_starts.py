"""Starts, the lease, wants, and the endpoints whose calls travel as tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """To this schema."""
    op.create_table(
        "launcher_starts",
        sa.Column("id", _NAME, primary_key=True),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double, index=True),
        sa.Column("settled", sa.Boolean, nullable=False, index=True),
        sa.Column("stop_why", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_index("launcher_starts_by_endpoint", "launcher_starts", ["endpoint", "created_at"])
    live = sa.text("ended_at IS NULL")
    op.create_index(
        "launcher_live_slots",
        "launcher_starts",
        ["endpoint", "slot"],
        unique=True,
        postgresql_where=live,
        sqlite_where=live,
    )
    op.create_table(
        "launcher_lease",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "launcher_wants",
        sa.Column("endpoint", _NAME, primary_key=True),
        sa.Column("router", sa.Text, primary_key=True),
        sa.Column("waiting", sa.Integer, nullable=False),
        sa.Column("said_at", sa.Double, nullable=False),
    )
    op.create_table(
        "launcher_task_mode",
        sa.Column("endpoint", _NAME, primary_key=True),
        sa.Column("since", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Back to none."""
    for table in ("launcher_task_mode", "launcher_wants", "launcher_lease", "launcher_starts"):
        op.drop_table(table)
