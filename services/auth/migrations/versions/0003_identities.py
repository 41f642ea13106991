"""The scope and use of keys, denials, revocations, and the principals that were seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """To this schema."""
    op.add_column("auth_keys", sa.Column("allow_operations", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("auth_keys", sa.Column("groups", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("auth_keys", sa.Column("last_used_at", sa.Double))
    op.add_column("auth_keys", sa.Column("successor", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "auth_denials",
        sa.Column("principal", _NAME, primary_key=True),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "auth_revocations",
        sa.Column("revision", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revoked_at", sa.Double, nullable=False, index=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "auth_principals",
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("principal", sa.LargeBinary, nullable=False),
        sa.Column("last_used_at", sa.Double, nullable=False, index=True),
    )


def downgrade() -> None:
    """Back to the one before."""
    op.drop_table("auth_principals")
    op.drop_table("auth_revocations")
    op.drop_table("auth_denials")
    for column in ("successor", "last_used_at", "groups", "allow_operations"):
        op.drop_column("auth_keys", column)
