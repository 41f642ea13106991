"""API keys, and the keys that session tokens are signed with."""

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
        "auth_keys",
        sa.Column("id", _NAME, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("principal", _NAME, nullable=False, index=True),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("roles", sa.JSON, nullable=False),
        sa.Column("allow_models", sa.JSON, nullable=False),
        sa.Column("deny_models", sa.JSON, nullable=False),
        sa.Column("allow_endpoints", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
    )
    op.create_table(
        "auth_signing_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("private_key", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Back to none."""
    op.drop_table("auth_signing_keys")
    op.drop_table("auth_keys")
