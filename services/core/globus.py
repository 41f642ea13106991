"""What the registry tells of Globus Compute: endpoints that calls and workers' starts go to, and the functions there.

Names and meanings are those of `protos/weft/registry/v1/resources.proto`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class GlobusFunction:
    """A function at a Globus Compute endpoint. Without a UUID, the newest of Weft's own of the kind that the endpoint
    allows.
    """

    endpoint_uuid: str
    function_uuid: str = ""


class CallMode(enum.Enum):
    """How calls travel; by the names and numbers of the proto."""

    AUTO = 1
    SESSION = 2
    TASK = 3


@dataclass(frozen=True, slots=True)
class LaunchPolicy:
    """How many workers an endpoint is to have, and how they are started.

    Durations are in seconds; None leaves one to the launcher, or for `walltime` means that a job has no end.
    `calls_per_worker` 0 means that calls start no second worker. `serves` is the one principal whom the workers serve;
    empty means that they are shared.
    """

    start_worker: GlobusFunction
    min_workers: int = 0
    max_workers: int = 1
    calls_per_worker: int = 0
    idle_time: float | None = None
    keep_warm: bool = False
    walltime: float | None = None
    replace_before: float | None = None
    queue_time: float | None = None
    user_endpoint_config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    routers: tuple[str, ...] = ()
    serves: str = ""


@dataclass(frozen=True, slots=True)
class GlobusBackend:
    """A Globus Compute endpoint; `api_port` is where vLLM listens on its node, 0 where the worker chooses."""

    inference: GlobusFunction | None = None
    batch: GlobusFunction | None = None
    api_port: int = 0
    launch: LaunchPolicy | None = None
    call_mode: CallMode = CallMode.AUTO
    credentials: str = ""


@dataclass(frozen=True, slots=True)
class FunctionVersion:
    """One registration of a function; `register_time` in seconds since 1970. A high-assurance one belongs to one
    endpoint.
    """

    uuid: str
    sha256: str
    register_time: float
    ha_endpoint_uuid: str = ""


@dataclass(frozen=True, slots=True)
class Function:
    """One of Weft's own functions, `functions/{function}`, with its registrations, newest first."""

    name: str
    versions: tuple[FunctionVersion, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
