"""What the registry tells of Globus Compute, between `weft.registry.v1` and the domain."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from weft.registry.v1 import resources_pb2

from services.core.globus import CallMode, Function, FunctionVersion, GlobusBackend, GlobusFunction, LaunchPolicy


def globus_function_from_proto(proto: resources_pb2.GlobusFunction) -> GlobusFunction:
    """The function that the registry spoke of."""
    return GlobusFunction(proto.endpoint_uuid, proto.function_uuid)


def globus_function_to_proto(function: GlobusFunction | None) -> resources_pb2.GlobusFunction | None:
    """The function as the registry speaks of it."""
    if function is None:
        return None
    return resources_pb2.GlobusFunction(endpoint_uuid=function.endpoint_uuid, function_uuid=function.function_uuid)


def globus_backend_from_proto(proto: resources_pb2.GlobusBackend) -> GlobusBackend:
    """The backend that the registry spoke of."""
    return GlobusBackend(
        inference=globus_function_from_proto(proto.inference) if proto.HasField("inference") else None,
        batch=globus_function_from_proto(proto.batch) if proto.HasField("batch") else None,
        api_port=proto.api_port,
        launch=_launch_from_proto(proto.launch) if proto.HasField("launch") else None,
        call_mode=_call_mode(proto.call_mode),
        credentials=proto.credentials,
    )


def globus_backend_to_proto(backend: GlobusBackend) -> resources_pb2.GlobusBackend:
    """The backend as the registry speaks of it."""
    return resources_pb2.GlobusBackend(
        inference=globus_function_to_proto(backend.inference),
        batch=globus_function_to_proto(backend.batch),
        api_port=backend.api_port,
        launch=None if backend.launch is None else _launch_to_proto(backend.launch),
        call_mode=resources_pb2.CallMode.ValueType(backend.call_mode.value),
        credentials=backend.credentials,
    )


def function_from_proto(proto: resources_pb2.Function) -> Function:
    """The function, with its registrations, that the registry spoke of."""
    versions = (
        FunctionVersion(
            version.uuid, version.sha256, version.register_time.ToMilliseconds() / 1000, version.ha_endpoint_uuid
        )
        for version in proto.versions
    )
    return Function(proto.name, tuple(versions), dict(proto.labels))


def function_to_proto(function: Function) -> resources_pb2.Function:
    """The function as the registry speaks of it."""
    proto = resources_pb2.Function(name=function.name, labels=function.labels)
    for version in function.versions:
        added = proto.versions.add(uuid=version.uuid, sha256=version.sha256, ha_endpoint_uuid=version.ha_endpoint_uuid)
        added.register_time.FromMilliseconds(round(version.register_time * 1000))
    return proto


def _launch_from_proto(proto: resources_pb2.LaunchPolicy) -> LaunchPolicy:
    def seconds(field: str) -> float | None:
        return getattr(proto, field).ToMilliseconds() / 1000 if proto.HasField(field) else None  # type: ignore[arg-type]

    return LaunchPolicy(
        start_worker=globus_function_from_proto(proto.start_worker),
        min_workers=proto.min_workers,
        max_workers=max(proto.max_workers, proto.min_workers, 1),
        calls_per_worker=proto.calls_per_worker,
        idle_time=seconds("idle_time"),
        keep_warm=proto.keep_warm,
        walltime=seconds("walltime"),
        replace_before=seconds("replace_before"),
        queue_time=seconds("queue_time"),
        user_endpoint_config=_whole_numbers(json_format.MessageToDict(proto.user_endpoint_config)),
        routers=tuple(proto.routers),
        serves=proto.serves,
    )


def _launch_to_proto(launch: LaunchPolicy) -> resources_pb2.LaunchPolicy:
    config = Struct()
    config.update(dict(launch.user_endpoint_config))
    return resources_pb2.LaunchPolicy(
        start_worker=globus_function_to_proto(launch.start_worker),
        min_workers=launch.min_workers,
        max_workers=launch.max_workers,
        calls_per_worker=launch.calls_per_worker,
        idle_time=_duration(launch.idle_time),
        keep_warm=launch.keep_warm,
        walltime=_duration(launch.walltime),
        replace_before=_duration(launch.replace_before),
        queue_time=_duration(launch.queue_time),
        user_endpoint_config=config,
        routers=launch.routers,
        serves=launch.serves,
    )


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration


def _call_mode(proto: int) -> CallMode:
    if proto == resources_pb2.CALL_MODE_UNSPECIFIED:
        return CallMode.AUTO
    try:
        return CallMode(proto)
    except ValueError:
        return CallMode.AUTO  # a mode that a newer registry has


def _whole_numbers(value: Any) -> Any:
    """A Struct holds every number as a double; a template's schema asks for integers where it means them."""
    match value:
        case dict():
            return {key: _whole_numbers(item) for key, item in value.items()}
        case list():
            return [_whole_numbers(item) for item in value]
        case float() if value.is_integer():
            return int(value)
    return value
