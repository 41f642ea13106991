"""What was found out about an endpoint of Globus Compute, for its diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.core.globus import CallMode
from services.globus.control import EndpointStatus
from services.globus.errors import GlobusError


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A task that has not ended within so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class FailedStart:
    """The last start of a worker, if it failed: its resource name, and what the launcher says of it."""

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out; None where it was not asked, because something before it had failed.

    `needed` has the UUIDs that would do for each function that the endpoint is to run, the preferred first. `allowed`
    are the UUIDs that it may run, "all" if it does not restrict them. `probe` is the answer of `functions/probe` from
    the node, `python` the version here.
    """

    name: str
    endpoint_uuid: str
    call_mode: CallMode = CallMode.AUTO
    opened: GlobusError | None = None
    status: EndpointStatus | GlobusError | None = None
    needed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    allowed: frozenset[str] | str | GlobusError | None = None
    probe: Mapping[str, Any] | GlobusError | Unanswered | None = None
    failed_start: FailedStart | None = None
    python: str = ""
