"""What the registry asks of Globus Compute's endpoints, of how workers are started there, and of functions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from weft.registry.v1 import resources_pb2

from services.core.names import ID_RULE, check
from services.registry.rules import ID, bounded, check_each, check_word, refuse

MAX_WORKERS: Final = 1000
"""Workers of one endpoint."""
MAX_CONFIG: Final = 16_384
"""Bytes of a `user_endpoint_config` as JSON: each start sends it."""
RESERVED: Final = ("weft_endpoint", "weft_slot")
"""Values for templates that the launcher sets."""

_DURATIONS: Final = ("idle_time", "walltime", "replace_before", "queue_time")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_PORT = r"(?:6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]\d{4}|[1-9]\d{0,3})"
_ROUTER = re.compile(f"{_HOST}:{_PORT}|https://{_HOST}(?::{_PORT})?")
_PRINCIPAL = re.compile(r"users/[^/\s]{1,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_globus(globus: resources_pb2.GlobusBackend, param: str) -> None:
    """The backend of an endpoint."""
    if not globus.HasField("inference") and not globus.HasField("launch"):
        refuse(param, "needs 'launch', how its workers are started, or 'inference', where its calls go as tasks")
    for field in ("inference", "batch"):
        if globus.HasField(field):
            check_reference(getattr(globus, field), f"{param}.{field}")
    if globus.api_port > 65_535:
        refuse(f"{param}.api_port", "must be a port, 1 to 65535; 0 leaves it to the worker")
    if globus.call_mode not in resources_pb2.CallMode.values():
        refuse(f"{param}.call_mode", "must be AUTO, SESSION or TASK")
    if globus.call_mode == resources_pb2.CALL_MODE_SESSION and not globus.HasField("launch"):
        refuse(f"{param}.call_mode", "cannot be SESSION without 'launch', as nobody would start the workers that dial")
    if globus.credentials and ID.fullmatch(globus.credentials) is None:
        refuse(f"{param}.credentials", f"must be a name from the launcher's configuration, {ID_RULE}; not the secret")
    if globus.HasField("launch"):
        _check_launch(globus.launch, f"{param}.launch")


def check_reference(function: resources_pb2.GlobusFunction, param: str) -> None:
    """A function at an endpoint of Globus Compute; its own UUID may be left to Weft."""
    # Any text: a UUID in production, a placeholder in examples and emulations.
    check_word(function.endpoint_uuid, f"{param}.endpoint_uuid")
    if function.function_uuid:
        check_word(function.function_uuid, f"{param}.function_uuid")


def check_function(function: resources_pb2.Function, param: str) -> None:
    """One of Weft's functions, with its registrations."""
    check("function", function.name, param=f"{param}.name")
    seen: set[str] = set()
    for index, version in enumerate(bounded(function.versions, f"{param}.versions")):
        where = f"{param}.versions[{index}]"
        check_word(version.uuid, f"{where}.uuid")
        if version.uuid in seen:
            refuse(f"{where}.uuid", f"gives {version.uuid!r} a second time; give each registration once")
        seen.add(version.uuid)
        if _SHA256.fullmatch(version.sha256) is None:
            refuse(f"{where}.sha256", "must be the SHA-256 of the function's source, 64 digits of 0-9 and a-f")
        if not version.HasField("register_time"):
            refuse(f"{where}.register_time", "must say when the function was registered")
        if version.ha_endpoint_uuid:
            check_word(version.ha_endpoint_uuid, f"{where}.ha_endpoint_uuid")
    times = [version.register_time.ToNanoseconds() for version in function.versions]
    if any(newer < older for newer, older in pairwise(times)):
        refuse(f"{param}.versions", "must have the newest first")


def _check_launch(launch: resources_pb2.LaunchPolicy, param: str) -> None:
    check_reference(launch.start_worker, f"{param}.start_worker")
    if launch.max_workers > MAX_WORKERS:
        refuse(f"{param}.max_workers", f"must be at most {MAX_WORKERS}")
    if launch.min_workers > (launch.max_workers or 1):
        at_most = f"'max_workers', which is {launch.max_workers or 1}"
        refuse(f"{param}.min_workers", f"must be at most {at_most}; it is {launch.min_workers}")
    for field in _DURATIONS:
        if launch.HasField(field):
            _check_duration(getattr(launch, field), f"{param}.{field}")
    both = launch.HasField("walltime") and launch.HasField("replace_before")
    if both and launch.replace_before.ToNanoseconds() >= launch.walltime.ToNanoseconds():
        refuse(f"{param}.replace_before", "must be less than 'walltime', or each job would be replaced at once")
    check_each(launch.routers, _ROUTER, "'host:port' or 'https://host:port'", f"{param}.routers")
    if launch.serves and _PRINCIPAL.fullmatch(launch.serves) is None:
        refuse(f"{param}.serves", f"must be a user, 'users/ada' for instance; it is {launch.serves[:100]!r}")
    _check_config(launch.user_endpoint_config, f"{param}.user_endpoint_config")


def _check_duration(duration: Duration, param: str) -> None:
    if duration.ToNanoseconds() < 10**9:
        refuse(param, "must be at least 1 s; leave it out to have the launcher's own")


def _check_config(config: Struct, param: str) -> None:
    for key in RESERVED:
        if key in config.fields:
            refuse(param, f"must not hold '{key}', which the launcher sets")
    if any(not key for key in config.fields):
        refuse(param, "must have no empty key")
    if not all(map(math.isfinite, _numbers(config))):
        refuse(param, "must hold no infinite number and no NaN, as JSON has none")
    if len(msgspec.json.encode(MessageToDict(config))) > MAX_CONFIG:
        refuse(param, f"must have at most {MAX_CONFIG} bytes as JSON")


def _numbers(config: Struct) -> Iterator[float]:
    """All numbers in it, at any depth."""
    left = list(config.fields.values())
    while left:
        value = left.pop()
        match value.WhichOneof("kind"):
            case "number_value":
                yield value.number_value
            case "struct_value":
                left.extend(value.struct_value.fields.values())
            case "list_value":
                left.extend(value.list_value.values)
