"""The tables of auth's database."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from services.runtime.database import NAME

VERSION_TABLE: Final = "auth_version"
"""Named so that auth may share a database with the registry."""

_NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite counts up only what it calls INTEGER."""

AWAY: Final = "Auth's database does not answer; try again shortly."

metadata: Final = sa.MetaData()

keys: Final = sa.Table(
    "auth_keys",
    metadata,
    sa.Column("id", NAME, primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("principal", NAME, nullable=False, index=True),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("allow_models", sa.JSON, nullable=False),
    sa.Column("deny_models", sa.JSON, nullable=False),
    sa.Column("allow_endpoints", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("allow_operations", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("groups", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("last_used_at", sa.Double),
    sa.Column("successor", sa.Text, nullable=False, server_default=""),
)
signing_keys: Final = sa.Table(
    "auth_signing_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("private_key", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
enrolments: Final = sa.Table(
    "auth_enrolments",
    metadata,
    sa.Column("start", NAME, primary_key=True),
    sa.Column("endpoint", NAME, nullable=False),
    sa.Column("serves", NAME, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("touched_at", sa.Double, nullable=False, index=True),
    sa.Column("instance", sa.Text),
    sa.Column("revoked_at", sa.Double),
)
enrolment_tokens: Final = sa.Table(
    "auth_enrolment_tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("start", NAME, sa.ForeignKey("auth_enrolments.start"), nullable=False, index=True),
)
denials: Final = sa.Table(
    "auth_denials",
    metadata,
    sa.Column("principal", NAME, primary_key=True),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
revocations: Final = sa.Table(
    "auth_revocations",
    metadata,
    sa.Column("revision", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("revoked_at", sa.Double, nullable=False, index=True),
    sqlite_autoincrement=True,
)
"""Never used again: a revision that a watcher has must not come back for something else."""
principals: Final = sa.Table(
    "auth_principals",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("principal", sa.LargeBinary, nullable=False),
    sa.Column("last_used_at", sa.Double, nullable=False, index=True),
)
"""Those that were seen, each as the `weft.auth.v1.Principal` that auth last answered."""
