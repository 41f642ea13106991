"""FIRST's status routes: a person's own worker is nobody else's to see."""

from __future__ import annotations

import json
from typing import Any

from weft.launcher.v1 import launcher_pb2

from services.core.catalogue import Catalogue, Cluster, Endpoint, ModelBinding, SessionBackend
from services.core.globus import GlobusBackend, GlobusFunction, LaunchPolicy
from services.core.principal import Permissions, Principal
from services.router.cold import ColdEndpoints
from services.router.first import StatusRoutes
from services.router.permits import Permits
from services.router.roster import Roster

SHARED, ALICES = "clusters/one/endpoints/shared", "clusters/one/endpoints/alices"
ALONE = GlobusBackend(launch=LaunchPolicy(GlobusFunction("e"), serves="users/alice"))
MODELS = (ModelBinding("m"),)


class Queue:
    """A running job of each endpoint, both with the same model."""

    async def of(self, cluster: str) -> launcher_pb2.GetQueueResponse:
        return launcher_pb2.GetQueueResponse(
            jobs=[
                launcher_pb2.QueuedJob(id=name, state="running", models=["m"], endpoint=name, hosts="node1")
                for name in (SHARED, ALICES)
            ]
        )


async def ask(operation: str, name: str, *endpoints: Endpoint) -> Any:
    roster = Roster(settle=0)
    cluster = Cluster("clusters/one", queue_status=GlobusFunction("q", "f"))
    roster.set_catalogue(Catalogue.of([cluster, *endpoints]))
    routes = StatusRoutes(roster, Permits(roster), ColdEndpoints(), Queue())
    principal = Principal(name, permissions=Permissions(allow_models=("*",))) if name else None
    return json.loads(await routes.answer(f"/resource_server/{operation}", "one", principal))


async def test_jobs_that_serve_a_person_alone_are_shown_to_nobody_else() -> None:
    endpoints = Endpoint(SHARED, SessionBackend(), models=MODELS), Endpoint(ALICES, ALONE, models=MODELS)
    seen = {
        name: [job["Job ID"] for job in (await ask("jobs", name, *endpoints))["running"]]
        for name in ("users/alice", "users/bob")
    }
    assert seen == {"users/alice": [SHARED, ALICES], "users/bob": [SHARED]}


async def test_what_serves_a_person_alone_is_no_public_cluster() -> None:
    assert await ask("status", "", Endpoint(ALICES, ALONE, models=MODELS)) == {}
    assert await ask("status", "", Endpoint(SHARED, SessionBackend())) == {"one": True}
