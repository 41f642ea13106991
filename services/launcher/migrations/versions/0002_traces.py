"""The trace of a call that waits, with the want."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this schema."""
    op.add_column("launcher_wants", sa.Column("traceparent", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Back to 0001."""
    op.drop_column("launcher_wants", "traceparent")
