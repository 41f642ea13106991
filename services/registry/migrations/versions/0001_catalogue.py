"""Clusters, endpoints, routes."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """To this schema."""
    state = op.create_table(
        "registry_state",
        sa.Column("incarnation", sa.Text, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(state, [{"incarnation": secrets.token_hex(8), "revision": 0}])
    op.create_table(
        "clusters",
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "endpoints",
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("cluster", _NAME, sa.ForeignKey("clusters.name"), nullable=False, index=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "routes",
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("model", sa.Text, nullable=False, unique=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "route_targets",
        sa.Column("route", _NAME, sa.ForeignKey("routes.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("endpoint", _NAME, sa.ForeignKey("endpoints.name"), primary_key=True, index=True),
    )


def downgrade() -> None:
    """Back to an empty database."""
    for table in ("route_targets", "routes", "endpoints", "clusters", "registry_state"):
        op.drop_table(table)
