"""Enrolments: which starts may enrol a worker, and the tokens of each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """To this schema."""
    op.create_table(
        "auth_enrolments",
        sa.Column("start", _NAME, primary_key=True),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("serves", _NAME, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("touched_at", sa.Double, nullable=False, index=True),
        sa.Column("instance", sa.Text),
        sa.Column("revoked_at", sa.Double),
    )
    op.create_table(
        "auth_enrolment_tokens",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("start", _NAME, sa.ForeignKey("auth_enrolments.start"), nullable=False, index=True),
    )


def downgrade() -> None:
    """Back to the one before."""
    op.drop_table("auth_enrolment_tokens")
    op.drop_table("auth_enrolments")
