"""The tables. Each resource is one row: its name, what is looked for in it, and the whole as a proto."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from weft.registry.v1 import resources_pb2

from services.runtime.database import NAME

Resource = resources_pb2.Cluster | resources_pb2.Endpoint | resources_pb2.Route | resources_pb2.Function

HEAD: Final = "0002"
"""The newest of `migrations/versions`; a test holds the two together."""

VERSION_TABLE: Final = "registry_schema_version"
"""Not alembic's default: auth may live in the same database, with a history of its own."""

metadata: Final = sa.MetaData()

state: Final = sa.Table(
    "registry_state",
    metadata,
    sa.Column("incarnation", sa.Text, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
clusters: Final = sa.Table(
    "clusters",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
endpoints: Final = sa.Table(
    "endpoints",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("cluster", NAME, sa.ForeignKey("clusters.name"), nullable=False, index=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
routes: Final = sa.Table(
    "routes",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("model", sa.Text, nullable=False, unique=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
route_targets: Final = sa.Table(
    "route_targets",
    metadata,
    sa.Column("route", NAME, sa.ForeignKey("routes.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("endpoint", NAME, sa.ForeignKey("endpoints.name"), primary_key=True, index=True),
)
functions: Final = sa.Table(
    "functions",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of resource. All of its names begin with `prefix`."""

    noun: str
    prefix: str
    message: type[Resource]
    table: sa.Table


CLUSTER: Final = Kind("cluster", "clusters/", resources_pb2.Cluster, clusters)
ENDPOINT: Final = Kind("endpoint", "clusters/", resources_pb2.Endpoint, endpoints)
ROUTE: Final = Kind("route", "routes/", resources_pb2.Route, routes)
FUNCTION: Final = Kind("function", "functions/", resources_pb2.Function, functions)
KINDS: Final = (CLUSTER, ENDPOINT, ROUTE, FUNCTION)
"""Each after those that it refers to."""


def kind_of(name: str) -> Kind:
    """The kind of a resource by its name."""
    if name.startswith("routes/"):
        return ROUTE
    if name.startswith("functions/"):
        return FUNCTION
    return ENDPOINT if "/endpoints/" in name else CLUSTER
