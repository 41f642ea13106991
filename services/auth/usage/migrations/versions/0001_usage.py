"""Records of calls."""

import sqlalchemy as sa
from alembic import op

from services.runtime.database import NAME

revision = "0001"
down_revision = None


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "usage_calls",
        sa.Column("id", NAME, primary_key=True),
        sa.Column("request_id", sa.Text, nullable=False),
        *(sa.Column(n, NAME, nullable=False) for n in ("principal", "model", "route", "endpoint", "operation")),
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
    )
    op.create_index("usage_calls_time", "usage_calls", ["started_at", "id"])
    op.create_index("usage_calls_principal", "usage_calls", ["principal", "started_at"])
    op.create_index("usage_calls_model", "usage_calls", ["model", "started_at"])
    op.create_table(
        "usage_groups",
        sa.Column("call", NAME, sa.ForeignKey("usage_calls.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", NAME, primary_key=True),
        sa.Column("started_at", sa.Double, nullable=False),
    )
    op.create_index("usage_groups_name", "usage_groups", ["name", "started_at", "call"])


def downgrade() -> None:
    """Back to the one before."""
    op.drop_table("usage_groups")
    op.drop_table("usage_calls")
