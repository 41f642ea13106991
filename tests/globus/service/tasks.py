"""Submission of tasks, their results, and what may be asked about them."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from aiohttp import web
from globus_compute_common.messagepack import message_types as messages
from globus_compute_common.messagepack import pack, unpack

from tests.globus.service.amqp import Broker
from tests.globus.service.auth import Auth
from tests.globus.service.endpoints import Endpoints
from tests.globus.service.errors import RefusedError
from tests.globus.service.faults import Faults
from tests.globus.service.functions import Functions
from tests.globus.service.records import Client, Endpoint, Function, Task
from tests.globus.service.state import State

MOST_BYTES = 10 * 2**20
"""The largest submission."""
STREAMS = "stream."
"""What the names of the queues begin with on which results reach clients."""


class Tasks:
    """The tasks."""

    def __init__(
        self, state: State, auth: Auth, broker: Broker, functions: Functions, endpoints: Endpoints, faults: Faults
    ) -> None:
        self._state, self._auth, self._broker = state, auth, broker
        self._functions, self._endpoints, self._faults = functions, endpoints, faults

    def routes(self) -> web.RouteTableDef:
        """The routes that concern tasks."""
        table = web.RouteTableDef()
        table.post("/v3/endpoints/{id}/submit")(self._submit)
        table.get("/v2/get_amqp_result_connection_url")(self._results_url)
        table.get("/v2/tasks/{id}")(self._get)
        table.post("/v2/batch_status")(self._batch_status)
        table.get("/v2/taskgroup/{id}")(self._group)
        return table

    def received(self, body: bytes) -> None:
        """Takes in a result from an endpoint. Raises ValueError if it is none."""
        message = _unpacked(body)
        task = self._state.tasks.get(str(message.task_id)) if isinstance(message, messages.Result) else None
        if task is not None and isinstance(message, messages.Result):
            self._finish(task, message, body)

    def heartbeat(self, body: bytes) -> None:
        """Takes in a heartbeat; the open tasks of a user endpoint that failed to start fail with it."""
        message = _unpacked(body)
        error = self._endpoints.heard(message) if isinstance(message, messages.EPStatusReport) else None
        if error is None or not isinstance(message, messages.EPStatusReport):
            return
        details = messages.ResultErrorDetails(code="ENDPOINT_STARTUP_FAILED", user_message=error)
        for task in list(self._state.tasks.values()):
            if task.user_endpoint == str(message.endpoint_id) and not task.over:
                result = messages.Result(task_id=uuid.UUID(task.id), data=error, error_details=details)
                self._finish(task, result, pack(result))

    def deliver(self, task: Task) -> None:
        """Puts a task into the queue of its user endpoint; done again, it is a redelivery. Raises `BrokerAwayError`."""
        code = self._functions.find(task.function).packed
        message = messages.Task(task_id=uuid.UUID(task.id), task_buffer=code + task.payload)
        self._broker.publish(
            f"{task.user_endpoint}.tasks", pack(message), headers=task.headers, timestamp=int(time.time())
        )

    async def _submit(self, request: web.Request) -> web.Response:
        caller, raw = self._auth.caller(request), await request.read()
        if len(raw) > MOST_BYTES:
            raise RefusedError(
                413, "PAYLOAD_TOO_LARGE", f"The submission has {len(raw)} bytes, the limit is {MOST_BYTES}"
            )
        body = json.loads(raw)
        endpoint = self._endpoints.find(request.match_info["id"])
        for function in [self._functions.find(id) for id in body["tasks"]]:
            self._check(caller, endpoint, function)
        if not endpoint.online(time.time()):
            raise RefusedError(409, "ENDPOINT_NOT_ONLINE", f"Endpoint {endpoint.id} is not online")
        group = body.get("task_group_id") or str(uuid.uuid4())
        if body.get("create_queue"):
            await self._broker.declare(STREAMS + group)
        child = await self._endpoints.user_endpoint(
            endpoint, caller, body.get("user_endpoint_config") or {}, body.get("user_runtime") or {}
        )
        submitted: dict[str, list[str]] = {}
        for function_id, payloads in body["tasks"].items():
            for payload in payloads:
                task = _task(body, group, function_id, endpoint, child, caller, payload)
                self._state.keep(task)
                submitted.setdefault(function_id, []).append(task.id)
                for _ in range(2 if self._faults.twice() else 1):
                    self.deliver(task)
        return web.json_response(
            {
                "request_id": str(uuid.uuid4()),
                "task_group_id": group,
                "endpoint_id": endpoint.id,
                "tasks": submitted,
            }
        )

    def _check(self, caller: Client, endpoint: Endpoint, function: Function) -> None:
        """Whether the caller may run the function there. Raises `RefusedError`."""
        if caller.id != endpoint.owner and not endpoint.registration.get("multi_user"):
            raise RefusedError(403, "ENDPOINT_ACCESS_FORBIDDEN", f"Endpoint {endpoint.id} is somebody else's")
        allowed = endpoint.allowed_functions
        if self._faults.settings.enforce_allow_lists and allowed is not None and function.id not in allowed:
            raise RefusedError(
                403, "FUNCTION_NOT_PERMITTED", f"Function {function.id} not permitted on endpoint {endpoint.id}"
            )
        demanding = bool(endpoint.registration.get("high_assurance"))
        if function.ha_endpoint != (endpoint.id if demanding else ""):
            raise RefusedError(
                403, "FUNCTION_NOT_PERMITTED", f"Function {function.id} was not registered for endpoint {endpoint.id}"
            )

    def _finish(self, task: Task, result: messages.Result, body: bytes) -> None:
        """Writes a result down, and sends it on to who waits for it; of several, the first alone."""
        task.results += 1
        if task.over:
            self._state.keep(task)
            return
        task.completed, task.details = time.time(), result.details
        if result.is_error:
            task.status, task.exception = "failed", result.data
        else:
            task.status, task.result = "success", result.data
        self._state.keep(task)
        if task.stream:
            self._broker.publish(STREAMS + task.group, body)

    async def _results_url(self, request: web.Request) -> web.Response:
        self._auth.caller(request)
        return web.json_response({"queue_prefix": STREAMS, "connection_url": self._broker.url})

    async def _get(self, request: web.Request) -> web.Response:
        self._auth.caller(request)
        task = self._state.tasks.get(request.match_info["id"])
        if task is None:
            raise RefusedError(404, "TASK_NOT_FOUND", f"Task {request.match_info['id']} could not be resolved")
        return web.json_response(_view(task))

    async def _batch_status(self, request: web.Request) -> web.Response:
        self._auth.caller(request)
        asked = (await request.json())["task_ids"]
        known = {id: _view(self._state.tasks[id]) for id in asked if id in self._state.tasks}
        return web.json_response({"response": "batch", "results": known})

    async def _group(self, request: web.Request) -> web.Response:
        self._auth.caller(request)
        group = request.match_info["id"]
        ids = [{"id": task.id} for task in self._state.tasks.values() if task.group == group]
        return web.json_response({"taskgroup_id": group, "tasks": ids})


def _task(
    body: dict[str, Any],
    group: str,
    function: str,
    endpoint: Endpoint,
    child: Endpoint,
    caller: Client,
    payload: str,
) -> Task:
    """One task of a submission."""
    id = str(uuid.uuid4())
    headers: dict[str, Any] = {"function_uuid": function, "task_uuid": id}
    if body.get("resource_specification"):
        headers["resource_specification"] = json.dumps(body["resource_specification"])
    if body.get("result_serializers"):
        headers["result_serializers"] = body["result_serializers"]
    return Task(
        id=id,
        group=group,
        function=function,
        endpoint=endpoint.id,
        user_endpoint=child.id,
        owner=caller.id,
        payload=payload,
        headers=headers,
        stream=bool(body.get("create_queue")),
        submitted=time.time(),
    )


def _view(task: Task) -> dict[str, Any]:
    """A task as clients see it."""
    view: dict[str, Any] = {"task_id": task.id, "status": task.status, "result": task.result}
    view |= {"exception": task.exception, "details": task.details}
    view["completion_t"] = None if task.completed is None else str(task.completed)
    return {name: value for name, value in view.items() if value is not None}


def _unpacked(body: bytes) -> messages.Message:
    """A message of AMQP. Raises ValueError if it is none."""
    try:
        return unpack(body)
    except Exception as error:  # the library raises whatever its parts raise
        raise ValueError(str(error)) from error
