"""The tasks that a start needs, put together from its endpoint's policy, its enrolment and the launcher's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.core.catalogue import Availability, Catalogue, Endpoint
from services.core.globus import CallMode, GlobusBackend, GlobusFunction, LaunchPolicy
from services.globus.errors import GlobusError, Kind
from services.launcher.config import LauncherConfig
from services.launcher.enrolment import Enrolment
from services.launcher.functions import Functions
from services.launcher.policy import Policy
from services.launcher.starts import Start
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

    def credentials(self, endpoint: str) -> str:
        """The name of the credentials that an endpoint's tasks are submitted with."""
        found = self._catalogue().endpoints.get(endpoint)
        backend = found.backend if found is not None else None
        return (backend.credentials if isinstance(backend, GlobusBackend) else "") or DEFAULT_CREDENTIALS

    async def start_worker(self, start: Start) -> Submission:
        """The task that starts its worker. Raises `GlobusError`, or what auth raises."""
        backend, launch = self._launched(start)
        policy_time = self._config.queue_time_s if launch.queue_time is None else launch.queue_time
        at = launch.start_worker
        function = await self._functions.find(
            self._catalogue(), START_WORKER, at, backend.credentials or DEFAULT_CREDENTIALS
        )
        token = await self._enrolment.issue(start.id, start.endpoint, lifetime=policy_time, serves=launch.serves)
        config = self._config
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
        }
        return self._submission(start, backend, launch, at, function, payload)

    async def control(self, start: Start, what: str) -> Submission:
        """A task that asks its node for vLLM's `state`, or to `stop` it. Raises `GlobusError`."""
        backend, launch = self._launched(start)
        at = GlobusFunction(launch.start_worker.endpoint_uuid)
        if backend.inference is not None:
            at = backend.inference
        function = await self._functions.find(
            self._catalogue(), INFERENCE, at, backend.credentials or DEFAULT_CREDENTIALS
        )
        payload = {"endpoint": start.endpoint, "slot": start.slot, "control": what, "start": start.id}
        return self._submission(start, backend, launch, at, function, payload)

    def _launched(self, start: Start) -> tuple[GlobusBackend, LaunchPolicy]:
        found = launched(self._catalogue().endpoints.get(start.endpoint))
        if found is None:
            raise GlobusError(Kind.OTHER, f"No workers are started for '{start.endpoint}' any more.", "")
        return found

    @staticmethod
    def _submission(
        start: Start,
        backend: GlobusBackend,
        launch: LaunchPolicy,
        at: GlobusFunction,
        function: str,
        payload: dict[str, Any],
    ) -> Submission:
        config = {**launch.user_endpoint_config, "weft_endpoint": start.endpoint, "weft_slot": start.slot}
        credentials = backend.credentials or DEFAULT_CREDENTIALS
        return Submission(credentials, at.endpoint_uuid, function, payload, config)


def in_task_mode(backend: GlobusBackend, *, found_out: bool) -> bool:
    """Whether calls travel as tasks; `found_out` if a node was found that cannot reach a router."""
    return backend.call_mode is CallMode.TASK or (backend.call_mode is CallMode.AUTO and found_out)
