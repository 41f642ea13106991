"""Registration of endpoints, their heartbeats, and the start of user endpoints."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import Any

from aiohttp import web
from globus_compute_common.messagepack.message_types import EPStatusReport

from tests.globus.service.amqp import Broker
from tests.globus.service.auth import Auth
from tests.globus.service.errors import RefusedError
from tests.globus.service.faults import Faults
from tests.globus.service.records import Client, Endpoint
from tests.globus.service.state import State

LOCK_SECONDS = 60


class Endpoints:
    """The endpoints, and the user endpoints that they start."""

    def __init__(self, state: State, auth: Auth, broker: Broker, faults: Faults) -> None:
        self._state, self._auth, self._broker, self._faults = state, auth, broker, faults

    def routes(self) -> web.RouteTableDef:
        """The routes that concern endpoints."""
        table = web.RouteTableDef()
        table.post("/v3/endpoints")(self._register)
        table.put("/v3/endpoints/{id}")(self._register)
        table.post("/v3/endpoints/{id}/lock")(self._lock)
        table.get("/v3/endpoints/{id}/allowed_functions")(self._allowed_functions)
        table.get("/v2/endpoints")(self._list)
        table.get("/v2/endpoints/{id}")(self._get)
        table.get("/v2/endpoints/{id}/status")(self._status)
        table.delete("/v2/endpoints/{id}")(self._delete)
        return table

    def find(self, id: str) -> Endpoint:
        """The endpoint. Raises `RefusedError`."""
        endpoint = self._state.endpoints.get(id)
        if endpoint is None:
            raise RefusedError(404, "ENDPOINT_NOT_FOUND", f"Endpoint {id} could not be resolved")
        return endpoint

    def heard(self, report: EPStatusReport) -> str | None:
        """Takes a heartbeat in. The error with which a user endpoint failed to start, None otherwise."""
        endpoint = self._state.endpoints.get(str(report.endpoint_id))
        state = report.global_state
        # A user endpoint that fails before it has a name of its own reports with that of its parent, which is well.
        if endpoint is None or (state.get("error") and not endpoint.parent):
            return None
        stops = state.get("error") or state.get("active") is False
        endpoint.heartbeat_period = 0.0 if stops else float(state.get("heartbeat_period", 30))
        endpoint.last_heartbeat = time.time()
        endpoint.report = json.loads(json.dumps(state, default=str))
        self._state.keep(endpoint)
        return str(state["error"]) if state.get("error") else None

    async def user_endpoint(
        self, endpoint: Endpoint, caller: Client, config: dict[str, Any], runtime: dict[str, Any]
    ) -> Endpoint:
        """The caller's user endpoint with this configuration; the endpoint is told to start it unless it runs."""
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
        id = str(uuid.uuid5(uuid.UUID(endpoint.id), caller.id + digest))
        name = f"uep.{endpoint.id}.{id[:8]}"
        child = self._state.endpoints.get(id)
        if child is None:
            child = Endpoint(id=id, parent=endpoint.id, owner=caller.id, name=name, config=config)
            await self._broker.declare(f"{id}.tasks")
            self._state.keep(child)
        if not child.online(time.time()):
            command = {
                "command": "cmd_start_endpoint",
                "args": [],
                "kwargs": {
                    "name": name,
                    "user_opts": config,
                    "user_runtime": runtime,
                    "amqp_creds": self._credentials(id),
                },
                "globus_effective_identity": caller.id,
                "globus_identity_set": [caller.identity()],
                "globus_username": caller.username,
            }
            self._broker.publish(
                f"{endpoint.id}.commands",
                json.dumps(command).encode(),
                content_type="application/json",
                timestamp=int(time.time()),
            )
        return child

    async def _register(self, request: web.Request) -> web.Response:
        caller, body = self._auth.caller(request), await request.json()
        id = request.match_info.get("id") or str(uuid.uuid4())
        endpoint = self._state.endpoints.get(id) or Endpoint(id=id, owner=caller.id, name="")
        if endpoint.owner != caller.id:
            raise RefusedError(403, "ENDPOINT_ACCESS_FORBIDDEN", f"Endpoint {id} is somebody else's")
        endpoint.name, endpoint.registration = body["endpoint_name"], body
        await self._broker.declare(f"{id}.commands")
        self._state.keep(endpoint)
        return web.json_response(
            {
                "endpoint_id": id,
                "command_queue_info": {"connection_url": self._broker.url, "queue": f"{id}.commands"},
                "heartbeat_queue_info": self._publishing("heartbeats", id),
            }
        )

    async def _lock(self, request: web.Request) -> web.Response:
        self._auth.caller(request)
        until = time.time() + LOCK_SECONDS
        return web.json_response({"endpoint_id": request.match_info["id"], "lock_expiration_timestamp": str(until)})

    async def _allowed_functions(self, request: web.Request) -> web.Response:
        self._auth.caller(request)
        endpoint = self.find(request.match_info["id"])
        allowed = endpoint.allowed_functions if self._faults.settings.enforce_allow_lists else None
        return web.json_response(
            {"endpoint_id": endpoint.id, "restricted": allowed is not None, "functions": allowed or []}
        )

    async def _list(self, request: web.Request) -> web.Response:
        caller = self._auth.caller(request)
        own = [each for each in self._state.endpoints.values() if each.owner == caller.id and not each.parent]
        return web.json_response(
            [
                {
                    "uuid": each.id,
                    "name": each.name,
                    "display_name": each.registration.get("display_name"),
                    "owner": each.owner,
                }
                for each in own
            ]
        )

    async def _get(self, request: web.Request) -> web.Response:
        self._auth.caller(request)
        endpoint = self.find(request.match_info["id"])
        registered = endpoint.registration
        return web.json_response(
            {
                "uuid": endpoint.id,
                "name": endpoint.name,
                "display_name": registered.get("display_name"),
                "owner_id": endpoint.owner,
                "parent": endpoint.parent or None,
                "metadata": registered.get("metadata"),
                "multi_user": bool(registered.get("multi_user")),
                "high_assurance": bool(registered.get("high_assurance")),
                "authentication_policy": registered.get("authentication_policy"),
            }
        )

    async def _status(self, request: web.Request) -> web.Response:
        self._auth.caller(request)
        endpoint = self.find(request.match_info["id"])
        status = "online" if endpoint.online(time.time()) else "offline"
        return web.json_response({"status": status, "details": endpoint.report})

    async def _delete(self, request: web.Request) -> web.Response:
        endpoint = self.find(request.match_info["id"])
        if endpoint.owner != self._auth.caller(request).id:
            raise RefusedError(403, "ENDPOINT_ACCESS_FORBIDDEN", f"Endpoint {endpoint.id} is somebody else's")
        self._state.forget(endpoint)
        return web.json_response({"result": 302})

    def _credentials(self, id: str) -> dict[str, Any]:
        """What a user endpoint needs to speak AMQP."""
        return {
            "endpoint_id": id,
            "task_queue_info": {"connection_url": self._broker.url, "exchange": "tasks", "queue": f"{id}.tasks"},
            "result_queue_info": self._publishing("results", id),
            "heartbeat_queue_info": self._publishing("heartbeats", id),
        }

    def _publishing(self, exchange: str, id: str) -> dict[str, Any]:
        """How an endpoint publishes to an exchange."""
        return {
            "connection_url": self._broker.url,
            "exchange": exchange,
            "queue": exchange,
            "queue_publish_kwargs": {
                "exchange": exchange,
                "routing_key": f"{id}.{exchange}",
                "mandatory": True,
                "properties": {"delivery_mode": 2, "content_type": "application/octet-stream"},
            },
        }
