"""What the commands about clusters, endpoints and routes share: calls to the registry, and showing its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.table import Table
from weft.registry.v1 import registry_pb2, registry_pb2_grpc, resources_pb2

from services.cli.connection import Connection, connect
from services.cli.settings import load
from services.cli.tables import print_table
from services.core.catalogue import Catalogue
from services.rpc.resources import catalogue_from_proto


def call(method: str, request: Message) -> Any:
    """One call to the registry. Raises `ServiceError` or `CommandError`."""

    async def run() -> Any:
        async with connect(load(), "registry") as registry:
            return await unary(registry, method, request)

    return asyncio.run(run())


async def unary(registry: Connection, method: str, request: Message) -> Any:
    """One call on a connection that is there."""
    stub = registry_pb2_grpc.RegistryServiceStub(registry.channel)
    return await getattr(stub, method)(request, metadata=registry.metadata, timeout=registry.timeout)


def list_all(method: str, request: Any, field: str) -> list[Any]:
    """All pages of a list."""

    async def run() -> list[Any]:
        async with connect(load(), "registry") as registry:
            return await pages(registry, method, request, field)

    return asyncio.run(run())


async def pages(registry: Connection, method: str, request: Any, field: str) -> list[Any]:
    """All pages of a list, on a connection that is there."""
    found: list[Any] = []
    while True:
        answer = await unary(registry, method, request)
        found += getattr(answer, field)
        request.page_token = answer.next_page_token
        if not request.page_token:
            return found


async def present(registry: Connection) -> Catalogue:
    """All that the registry has."""
    lists = registry_pb2.Catalogue(
        clusters=await pages(registry, "ListClusters", registry_pb2.ListClustersRequest(), "clusters"),
        endpoints=await pages(registry, "ListEndpoints", registry_pb2.ListEndpointsRequest(), "endpoints"),
        routes=await pages(registry, "ListRoutes", registry_pb2.ListRoutesRequest(), "routes"),
    )
    return catalogue_from_proto(lists)


def present_catalogue() -> Catalogue:
    """All that the registry has, on a connection of its own. Raises `ServiceError` or `CommandError`."""

    async def run() -> Catalogue:
        async with connect(load(), "registry") as registry:
            return await present(registry)

    return asyncio.run(run())


def print_list(
    found: Sequence[Message], columns: Sequence[str], row: Callable[[Any], Iterable[str]], as_json: bool
) -> None:
    """A table, or JSON."""
    if as_json:
        print(json.dumps([to_dict(message) for message in found], indent=2))
        return
    table = Table(*columns)
    for message in found:
        table.add_row(*row(message))
    print_table(table)


def print_one(message: Message) -> None:
    """A resource as JSON: the same fields as in the protos."""
    print(json.dumps(to_dict(message), indent=2))


def to_dict(message: Message) -> dict[str, Any]:
    """A message by the names of its proto's fields."""
    return MessageToDict(message, preserving_proto_field_name=True)


def state(availability: int, notice: str) -> str:
    """Whether it takes calls, in words."""
    name = resources_pb2.Availability.Name(resources_pb2.Availability.ValueType(availability))
    word = name.removeprefix("AVAILABILITY_").lower()
    return f"{word}: {notice}" if notice else word
