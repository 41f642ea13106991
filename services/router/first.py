"""FIRST's status routes, in FIRST's shapes: what exists, what runs, who asks. A caller sees only what it may use.

The shapes are those of `resource_server_async/views/core.py` and its schemas in FIRST's sources. Where FIRST says
`N/A`, so do we; a key that FIRST leaves out, as `Estimated Start Time`, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec
from weft.launcher.v1 import launcher_pb2

from services.core.access import open_to_all
from services.core.catalogue import Availability, Catalogue, Cluster, Endpoint
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Principal
from services.router.cold import ColdEndpoints, StartState
from services.router.operations import LIST_ENDPOINTS, MODELS, STATUS, WHOAMI
from services.router.permits import Permits
from services.router.roster import Roster

FRAMEWORK: Final = "vllm"
_USUAL: Final = ("chat/completions", "completions", "embeddings", "messages", "responses")
"""What a cluster offers that names no operations."""
_NOT_KNOWN: Final = "N/A"
_GROUPS: Final = {"running": "running", "queued": "queued", "stopped": "stopped"}
_UNDER_WAY: Final = {StartState.PENDING: "queued", StartState.QUEUED: "queued", StartState.STARTING: "starting"}


class QueueSource(Protocol):
    """Tells a cluster's queue."""

    async def of(self, cluster: str) -> launcher_pb2.GetQueueResponse:
        """The queue of a cluster, by its resource name. Raises `ServiceError`."""


class StatusRoutes:
    """Answers them."""

    def __init__(self, roster: Roster, permits: Permits, cold: ColdEndpoints, queues: QueueSource) -> None:
        self._roster = roster
        self._permits = permits
        self._cold = cold
        self._queues = queues

    async def answer(self, operation: str, cluster: str, principal: Principal | None) -> bytes:
        """The JSON body. `principal` is None for the public ones. Raises RESOURCE_NOT_FOUND, CREDENTIAL_MISSING."""
        catalogue = self._roster.catalogue or Catalogue()
        if operation == STATUS:
            return msgspec.json.encode(_status(catalogue))
        if principal is None:
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        if operation == WHOAMI:
            return msgspec.json.encode(_whoami(principal))
        if operation == LIST_ENDPOINTS:
            return msgspec.json.encode(self._list(catalogue, principal))
        found = catalogue.clusters.get(f"clusters/{cluster}")
        if found is None:
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, f"There is no cluster '{cluster[:80]}'.")
        if operation == MODELS:
            return msgspec.json.encode(list(self._details(catalogue, found, principal)))
        return msgspec.json.encode(await self._jobs(catalogue, found, principal))

    def _usable(self, catalogue: Catalogue, cluster: Cluster, principal: Principal) -> Iterator[tuple[Endpoint, str]]:
        """The models at the cluster's endpoints that the caller may use, in order."""
        for _, endpoint in sorted(catalogue.endpoints.items()):
            if endpoint.cluster != cluster.name:
                continue
            for model in sorted(self._roster.models_of(endpoint)):
                permit = self._permits.sees(principal, model, _id(cluster.name), endpoint.framework or FRAMEWORK)
                if permit is not None and permit.allows(endpoint.name):
                    yield endpoint, model

    def _list(self, catalogue: Catalogue, principal: Principal) -> dict[str, Any]:
        clusters: dict[str, Any] = {}
        for name, cluster in sorted(catalogue.clusters.items()):
            models: dict[str, set[str]] = {}
            for endpoint, model in self._usable(catalogue, cluster, principal):
                models.setdefault(endpoint.framework or FRAMEWORK, set()).add(model)
            if models:
                clusters[_id(name)] = {
                    "base_url": f"/resource_server/{_id(name)}",
                    "frameworks": {
                        framework: {"models": sorted(names), "endpoints": _operations(cluster)}
                        for framework, names in sorted(models.items())
                    },
                }
        return {"clusters": clusters}

    def _details(self, catalogue: Catalogue, cluster: Cluster, principal: Principal) -> Iterator[dict[str, Any]]:
        for endpoint, model in self._usable(catalogue, cluster, principal):
            yield {
                "model": model,
                "cluster": _id(cluster.name),
                "framework": endpoint.framework or FRAMEWORK,
                "endpoints": _operations(cluster),
                "status": self._model_status(endpoint),
            }

    def _model_status(self, endpoint: Endpoint) -> str:
        """`running`, `starting`, `queued` or `stopped`."""
        servers = [server for server in self._roster.servers if server.endpoint == endpoint.name]
        if any(server.ready for server in servers):
            return "running"
        known = self._cold.get(endpoint.name)
        return "starting" if servers else _UNDER_WAY.get(known.state, "stopped") if known else "stopped"

    # Jobs

    async def _jobs(self, catalogue: Catalogue, cluster: Cluster, principal: Principal) -> dict[str, Any]:
        jobs: dict[str, Any] = {
            group: []
            for group in ("running", "queued", "stopped", "others", "private_batch_running", "private_batch_queued")
        }
        jobs["cluster_status"] = {}
        usable = list(self._usable(catalogue, cluster, principal))
        if not usable:
            return jobs  # How busy a cluster is, is for those who may use it; and a question to its queue is a task.
        if cluster.availability is Availability.MAINTENANCE:
            jobs["stopped"] = [_job(model, endpoint, cluster) for endpoint, model in usable]
            return jobs
        try:
            if cluster.queue_status is None:
                raise ServiceError(Reason.RESOURCE_NOT_FOUND, "no function for its queue is registered")
            queue = await self._queues.of(cluster.name)
        except ServiceError as error:
            self._guess(jobs, cluster, usable)
            message = (
                f"The cluster's queue is not known ({error.message.rstrip('.')}); this is what Weft knows of itself."
            )
            jobs["cluster_status"] = {"cluster": _id(cluster.name), "status": "unknown", "message": message}
            return jobs
        allowed = {model for _, model in usable}
        hidden = catalogue.endpoints.keys() - {endpoint.name for endpoint, _ in usable}
        for queued in queue.jobs:
            if queued.endpoint in hidden:
                continue  # Its models may be served to all elsewhere; the job, its nodes and its times are others'.
            models = [model for model in queued.models if model in allowed]
            if models:
                jobs[_group(queued)].append(self._queued_job(queued, ",".join(models), cluster))
        jobs["cluster_status"] = {"free_nodes": queue.free_nodes}
        return jobs

    def _queued_job(self, queued: launcher_pb2.QueuedJob, models: str, cluster: Cluster) -> dict[str, Any]:
        job = {
            "Models": models,
            "Framework": queued.framework or FRAMEWORK,
            "Cluster": _id(cluster.name),
            "Model Status": self._status_of(queued),
            "Job ID": queued.id,
            "Job State": queued.scheduler_state or _NOT_KNOWN,
            "Host Name": queued.hosts or _NOT_KNOWN,
            "Job Comments": queued.comment or _NOT_KNOWN,
            "Nodes Reserved": str(queued.nodes) if queued.nodes else _NOT_KNOWN,
        }
        if queued.walltime:
            job["Walltime"] = queued.walltime
        if queued.expected_start:
            job["Estimated Start Time"] = queued.expected_start
        return job

    def _status_of(self, queued: launcher_pb2.QueuedJob) -> str:
        if queued.state != "running":
            return queued.state if queued.state in _GROUPS else "other"
        if queued.batch or not queued.endpoint:
            return "running"
        if any(server.ready for server in self._roster.servers if server.endpoint == queued.endpoint):
            return "running"
        known = self._cold.get(queued.endpoint)
        lost = known is not None and known.state is StartState.READY
        return "disconnected" if lost else "starting"

    def _guess(self, jobs: dict[str, Any], cluster: Cluster, usable: list[tuple[Endpoint, str]]) -> None:
        """The jobs as the workers that are attached, and the starts that are under way, let know them."""
        for endpoint, model in usable:
            status = self._model_status(endpoint)
            if status == "stopped":
                continue
            known = self._cold.get(endpoint.name)
            job = _job(model, endpoint, cluster) | {
                "Model Status": status,
                "Job ID": _NOT_KNOWN,
                "Job State": _NOT_KNOWN,
                "Host Name": _NOT_KNOWN,
                "Job Comments": (known.detail if known and status != "running" else "") or _NOT_KNOWN,
                "Nodes Reserved": _NOT_KNOWN,
            }
            jobs["queued" if status == "queued" else "running"].append(job)


def _group(queued: launcher_pb2.QueuedJob) -> str:
    if queued.batch and queued.state in ("running", "queued"):
        return f"private_batch_{queued.state}"
    return _GROUPS.get(queued.state, "others")


def _job(model: str, endpoint: Endpoint, cluster: Cluster) -> dict[str, Any]:
    return {"Models": model, "Framework": endpoint.framework or FRAMEWORK, "Cluster": _id(cluster.name)}


def _operations(cluster: Cluster) -> list[str]:
    return [f"/v1/{operation}" for operation in cluster.operations or _USUAL]


def _status(catalogue: Catalogue) -> dict[str, bool]:
    """The clusters with an endpoint that is open to everybody, and whether they are up."""
    public = {endpoint.cluster for endpoint in catalogue.endpoints.values() if open_to_all(catalogue, endpoint)}
    return {
        _id(name): cluster.availability is not Availability.MAINTENANCE
        for name, cluster in sorted(catalogue.clusters.items())
        if name in public
    }


def _whoami(principal: Principal) -> dict[str, Any]:
    """A credential of Weft's own, a key or a certificate, has no identity of Globus: its principal stands where FIRST
    has the user's.
    """
    identity = principal.identity
    user = principal.name.partition("/")[2]
    issued = identity.kind in (CredentialKind.GLOBUS, CredentialKind.OIDC)
    return {
        "id": identity.subject if issued else principal.name,
        "name": identity.display_name or user,
        "username": identity.username if issued else user,
        "user_group_uuids": sorted(identity.groups),
        "idp_id": identity.identity_provider,
        "idp_name": identity.identity_provider_name,
        "auth_service": "globus" if identity.kind is CredentialKind.GLOBUS else identity.identity_provider or "weft",
    }


def _id(cluster: str) -> str:
    return cluster.removeprefix("clusters/")
