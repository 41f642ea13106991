"""The tasks that a start needs, put together from its endpoint's policy, its enrolment and the launcher's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from services.core.catalogue import Availability, Catalogue, Endpoint
from services.core.globus import CallMode, GlobusBackend, GlobusFunction, LaunchPolicy
from services.globus.errors import GlobusError, Kind
from services.launcher.config import LauncherConfig
from services.launcher.enrolment import Enrolment
from services.launcher.functions import Functions
from services.launcher.policy import Policy
from services.launcher.starts import Start, new_id
from services.launcher.tasks import DEFAULT_CREDENTIALS, INFERENCE, START_WORKER
from services.launcher.watcher import Submission


def launched(endpoint: Endpoint | None) -> tuple[GlobusBackend, LaunchPolicy] | None:
    """How workers of an endpoint are started, None if they are not."""
    backend = endpoint.backend if endpoint is not None else None
    if isinstance(backend, GlobusBackend) and backend.launch is not None:
        return backend, backend.launch
    return None


def resolve(catalogue: Catalogue, endpoint: Endpoint, launch: LaunchPolicy, config: LauncherConfig) -> Policy:
    """An endpoint's policy with the launcher's defaults."""

    def either(own: float | None, default: float) -> float:
        return default if own is None else own

    return Policy(
        min_workers=launch.min_workers,
        max_workers=launch.max_workers,
        calls_per_worker=launch.calls_per_worker,
        idle_time=either(launch.idle_time, config.idle_time_s),
        keep_warm=launch.keep_warm,
        replace_before=either(launch.replace_before, config.replace_before_s),
        queue_time=either(launch.queue_time, config.queue_time_s),
        start_time=config.start_time_s,
        first_backoff=config.first_backoff_s,
        longest_backoff=config.longest_backoff_s,
        closed=_closed(catalogue, endpoint),
    )


def _closed(catalogue: Catalogue, endpoint: Endpoint) -> str:
    cluster = catalogue.clusters.get(endpoint.cluster)
    for what, place in (("endpoint", endpoint), ("cluster", cluster)):
        if place is not None and place.availability is not Availability.ACTIVE:
            word = "is drained" if place.availability is Availability.DRAINING else "is under maintenance"
            return f"the {what} {word}: {place.notice}" if place.notice else f"the {what} {word}"
    return ""


class Requests:
    """Makes submissions. `catalogue` gives the present one."""

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        functions: Functions,
        enrolment: Enrolment,
        config: LauncherConfig,
    ) -> None:
        self._catalogue = catalogue
        self._functions = functions
        self._enrolment = enrolment
        self._config = config

    async def start_worker(self, start: Start) -> Submission:
        """The task that starts its worker. Raises `GlobusError`, or what auth raises."""
        found = launched(self._catalogue().endpoints.get(start.endpoint))
        if found is None:
            raise GlobusError(Kind.OTHER, f"No workers are started for '{start.endpoint}' any more.", "")
        backend, launch = found
        config = self._config
        at = GlobusFunction(start.globus_endpoint, launch.start_worker.function_uuid)
        function = await self._functions.find(self._catalogue(), START_WORKER, at, start.credentials)
        lifetime = config.queue_time_s if launch.queue_time is None else launch.queue_time
        token = await self._enrolment.issue(start.id, start.endpoint, lifetime=lifetime, serves=launch.serves)
        payload = {
            "endpoint": start.endpoint,
            "start": start.id,
            "slot": start.slot,
            "enrolment_token": token,
            "routers": list(launch.routers or config.worker_routers or config.router_addresses),
            "mode": "task" if start.tasks else "session",
            "api_port": backend.api_port,
            "walltime_s": launch.walltime,
            "grace_s": config.worker_grace_s,
            "drain_before_s": config.drain_before_s,
            "attach_timeout_s": config.attach_timeout_s,
            "traceparent": start.traceparent,
        }
        return _submission(start, at, function, payload)

    async def control(self, start: Start, what: str) -> Submission:
        """A task that asks its node for vLLM's `state`, or to `stop` it. Raises `GlobusError`."""
        found = launched(self._catalogue().endpoints.get(start.endpoint))
        at = GlobusFunction(start.globus_endpoint)
        if found is not None and found[0].inference is not None:
            at = found[0].inference
        function = await self._functions.find(self._catalogue(), INFERENCE, at, start.credentials)
        payload = {"endpoint": start.endpoint, "slot": start.slot, "control": what, "start": start.id}
        return _submission(start, at, function, payload)


def _submission(start: Start, at: GlobusFunction, function: str, payload: Mapping[str, Any]) -> Submission:
    config = msgspec.json.decode(start.config)
    return Submission(start.credentials, at.endpoint_uuid, function, payload, config)


def new_start(
    endpoint: str, slot: int, backend: GlobusBackend, launch: LaunchPolicy, now: float, *, tasks: bool, cause: str = ""
) -> Start:
    """A start, decided now, for the call whose `traceparent` is `cause`, if that is known. Its slot is in its user
    endpoint's configuration, so that each worker has a job of its own, and its tasks reach the node of that job.
    """
    config = {**launch.user_endpoint_config, "weft_endpoint": endpoint, "weft_slot": slot}
    return Start(
        new_id(),
        endpoint,
        slot,
        created_at=now,
        tasks=tasks,
        globus_endpoint=launch.start_worker.endpoint_uuid,
        credentials=backend.credentials or DEFAULT_CREDENTIALS,
        config=msgspec.json.encode(config).decode(),
        cause=cause,
    )


def in_task_mode(backend: GlobusBackend, *, found_out: bool) -> bool:
    """Whether calls travel as tasks; `found_out` if a node was found that cannot reach a router."""
    return backend.call_mode is CallMode.TASK or (backend.call_mode is CallMode.AUTO and found_out)
