"""What may be done with the resources, each within one transaction of the store, whose rules hold for all of it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final, TypeVar, cast

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from weft.registry.v1 import registry_pb2, resources_pb2

from services.core.errors import Reason, ServiceError
from services.core.names import check, endpoint_name
from services.registry.store import Writer, found
from services.registry.tables import Resource
from services.registry.validation import check_resource

_R = TypeVar("_R", resources_pb2.Cluster, resources_pb2.Endpoint, resources_pb2.Route, resources_pb2.Function)

OURS: Final = ("etag", "create_time", "update_time")
"""Fields that the registry alone sets."""


async def create(writer: Writer, resource: _R) -> _R:
    """Makes a resource. Raises RESOURCE_EXISTS, and what `_put` raises."""
    noun = _noun(resource)
    check_resource(resource, noun)
    if await writer.get(resource.name) is not None:
        message = f"'{resource.name}' exists already; update it, or choose another name."
        raise ServiceError(Reason.RESOURCE_EXISTS, message, param=f"{noun}.name")
    return await _put(writer, resource, None, noun)


async def update(writer: Writer, resource: _R, mask: FieldMask) -> _R:
    """Changes the fields that the mask names, all if it names none. Raises RESOURCE_NOT_FOUND, RESOURCE_CHANGED, and
    what `_put` raises.
    """
    noun = _noun(resource)
    check(noun, resource.name, param=f"{noun}.name")
    existing = cast("_R", found(resource.name, await writer.get(resource.name)))
    _check_etag(existing, resource.etag)
    wanted = _masked(existing, resource, mask) if mask.paths else resource
    check_resource(wanted, noun)
    return await _put(writer, wanted, existing, noun)


async def delete(writer: Writer, name: str, etag: str) -> None:
    """Deletes a resource. Raises RESOURCE_NOT_FOUND, RESOURCE_CHANGED, and RESOURCE_IN_USE if others need it."""
    _check_etag(found(name, await writer.get(name)), etag)
    if users := await writer.users_of(name):
        message = f"'{name}' cannot be deleted, as '{users[0]}' needs it; delete or change that first."
        raise ServiceError(Reason.RESOURCE_IN_USE, message, param="name")
    await writer.delete(name)


async def drain(writer: Writer, name: str, *, resume: bool, notice: str) -> resources_pb2.Endpoint:
    """Lets an endpoint take no more calls, or take them again. Raises RESOURCE_NOT_FOUND."""
    existing = found(name, await writer.get(name))
    assert isinstance(existing, resources_pb2.Endpoint)
    wanted = resources_pb2.Endpoint()
    wanted.CopyFrom(existing)
    wanted.availability = resources_pb2.AVAILABILITY_ACTIVE if resume else resources_pb2.AVAILABILITY_DRAINING
    wanted.notice = notice
    check_resource(wanted, "endpoint")
    return await _put(writer, wanted, existing, "endpoint")


async def apply(writer: Writer, request: registry_pb2.ApplyRequest) -> list[registry_pb2.AppliedResource]:
    """Makes or replaces all of these, and says what became of each. Raises what `_put` raises, and ARGUMENT_INVALID
    if a resource is given twice.
    """
    results: list[registry_pb2.AppliedResource] = []
    seen: set[str] = set()
    groups: tuple[tuple[str, Sequence[Resource]], ...] = (
        ("clusters", request.clusters),
        ("endpoints", request.endpoints),
        ("routes", request.routes),
        ("functions", request.functions),
    )
    for field, resources in groups:
        for index, resource in enumerate(resources):
            param = f"{field}[{index}]"
            check_resource(resource, param)
            if resource.name in seen:
                message = f"'{param}' gives '{resource.name}' a second time; give it once."
                raise ServiceError(Reason.ARGUMENT_INVALID, message, param=param)
            seen.add(resource.name)
            action = await _place(writer, resource, param)
            results.append(registry_pb2.AppliedResource(name=resource.name, action=action))
    return results


async def _place(writer: Writer, resource: Resource, param: str) -> registry_pb2.ApplyAction.ValueType:
    existing = await writer.get(resource.name)
    if existing is not None:
        _check_etag(existing, resource.etag)
    placed = await _put(writer, resource, existing, param)  # type: ignore[type-var]
    if existing is None:
        return registry_pb2.APPLY_ACTION_CREATED
    if placed.etag == existing.etag:
        return registry_pb2.APPLY_ACTION_UNCHANGED
    return registry_pb2.APPLY_ACTION_UPDATED


async def _put(writer: Writer, resource: _R, existing: _R | None, param: str) -> _R:
    """Stores a resource with a new etag, unless it is so already. Raises ARGUMENT_INVALID if it refers to what does
    not exist, RESOURCE_EXISTS if it claims another route's model.
    """
    await _check_references(writer, resource, param)
    placed = type(resource)()
    placed.CopyFrom(resource)
    if isinstance(placed, resources_pb2.Cluster | resources_pb2.Endpoint) and not placed.availability:
        placed.availability = resources_pb2.AVAILABILITY_ACTIVE
    if existing is not None:
        for field in OURS:
            placed.ClearField(field)  # type: ignore[arg-type]
        placed.etag = existing.etag
        placed.create_time.CopyFrom(existing.create_time)
        placed.update_time.CopyFrom(existing.update_time)
        if placed == existing:
            return existing
    now = Timestamp()
    now.GetCurrentTime()
    placed.etag = str(writer.revision)
    placed.update_time.CopyFrom(now)
    if existing is None:
        placed.create_time.CopyFrom(now)
    await writer.put(placed)
    return placed


async def _check_references(writer: Writer, resource: Resource, param: str) -> None:
    needed: list[tuple[str, str]] = []
    if isinstance(resource, resources_pb2.Endpoint):
        needed = [(f"{param}.name", endpoint_name(resource.name).parent)]
    elif isinstance(resource, resources_pb2.Route):
        endpoints = [target.endpoint for target in resource.targets]
        needed = [(f"{param}.targets[{index}].endpoint", endpoint) for index, endpoint in enumerate(endpoints)]
        claimed = await writer.route_of(resource.model)
        if claimed not in (None, resource.name):
            message = f"'{claimed}' claims the model {resource.model!r} already; change that route, or delete it first."
            raise ServiceError(Reason.RESOURCE_EXISTS, message, param=f"{param}.model")
    for field, name in needed:
        if await writer.get(name) is None:
            raise ServiceError(Reason.ARGUMENT_INVALID, f"'{field}' names '{name}', which does not exist.", param=field)


def _noun(resource: Resource) -> str:
    return resource.DESCRIPTOR.name.lower()


def _check_etag(existing: Resource, etag: str) -> None:
    if etag and etag != existing.etag:
        message = f"'{existing.name}' has changed since it was read; read it again."
        raise ServiceError(Reason.RESOURCE_CHANGED, message, param="etag")


def _masked(existing: _R, resource: _R, mask: FieldMask) -> _R:
    fields = [field.name for field in resource.DESCRIPTOR.fields if field.name not in ("name", *OURS)]
    for path in mask.paths:
        if path not in fields:
            near = difflib.get_close_matches(path, fields, n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"there are {', '.join(fields)}"
            message = f"'update_mask' names {path[:100]!r}, which is no field that can be changed; {hint}."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="update_mask")
    # Merging a message that has the named fields alone keeps a set but empty one, as `session` is.
    named, wanted = type(resource)(), type(resource)()
    named.CopyFrom(resource)
    wanted.CopyFrom(existing)
    for field in fields:
        (wanted if field in mask.paths else named).ClearField(field)  # type: ignore[arg-type]
    for field in OURS:
        named.ClearField(field)  # type: ignore[arg-type]
    wanted.MergeFrom(named)
    return wanted
