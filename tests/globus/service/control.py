"""What tests ask of the service and tell it, under `/_emulator`. Nothing of this exists in the real one."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from tests.globus.service.auth import Auth
from tests.globus.service.errors import RefusedError
from tests.globus.service.faults import Fault, Faults, Settings
from tests.globus.service.records import Client, Task
from tests.globus.service.state import State
from tests.globus.service.tasks import Tasks

PREFIX = "/_emulator"

T = TypeVar("T")


class Control:
    """The tests' side door."""

    def __init__(self, state: State, auth: Auth, tasks: Tasks, faults: Faults, requests: Counter[str]) -> None:
        self._state, self._auth, self._tasks, self._faults, self._requests = state, auth, tasks, faults, requests

    def routes(self) -> web.RouteTableDef:
        """The routes of this door."""
        table = web.RouteTableDef()
        table.put(f"{PREFIX}/clients/{{id}}")(self._set_client)
        table.post(f"{PREFIX}/clients/{{id}}/expire")(self._expire)
        table.post(f"{PREFIX}/faults")(self._add_fault)
        table.put(f"{PREFIX}/settings")(self._set_settings)
        table.delete(f"{PREFIX}/faults")(self._clear)
        table.get(f"{PREFIX}/tasks")(self._list_tasks)
        table.post(f"{PREFIX}/tasks/{{id}}/redeliver")(self._redeliver)
        table.get(f"{PREFIX}/endpoints")(self._list_endpoints)
        table.get(f"{PREFIX}/statistics")(self._statistics)
        return table

    async def _set_client(self, request: web.Request) -> web.Response:
        client = await _body(request, Client, id=request.match_info["id"])
        self._state.keep(client)
        return web.json_response({})

    async def _expire(self, request: web.Request) -> web.Response:
        self._auth.drop_tokens(request.match_info["id"])
        return web.json_response({})

    async def _add_fault(self, request: web.Request) -> web.Response:
        self._faults.add(await _body(request, Fault))
        return web.json_response({})

    async def _set_settings(self, request: web.Request) -> web.Response:
        self._faults.settings = await _body(request, Settings)
        return web.json_response({})

    async def _clear(self, request: web.Request) -> web.Response:
        self._faults.clear()
        return web.json_response({})

    async def _list_tasks(self, request: web.Request) -> web.Response:
        return web.json_response([self._told(task) for task in self._state.tasks.values()])

    async def _list_endpoints(self, request: web.Request) -> web.Response:
        now = time.time()
        return web.json_response(
            [
                {"id": each.id, "parent": each.parent, "config": each.config, "online": each.online(now)}
                for each in self._state.endpoints.values()
            ]
        )

    async def _redeliver(self, request: web.Request) -> web.Response:
        task = self._state.tasks.get(request.match_info["id"])
        if task is None:
            raise RefusedError(404, "TASK_NOT_FOUND", "There is no such task")
        self._tasks.deliver(task)
        return web.json_response({})

    async def _statistics(self, request: web.Request) -> web.Response:
        names = {function.id: function.name for function in self._state.functions.values()}
        tasks = Counter(names.get(task.function, task.function) for task in self._state.tasks.values())
        children = [each for each in self._state.endpoints.values() if each.parent]
        return web.json_response(
            {"requests": self._requests, "tasks": tasks, "user_endpoints": Counter(each.parent for each in children)}
        )

    def _told(self, task: Task) -> dict[str, Any]:
        function, child = self._state.functions.get(task.function), self._state.endpoints.get(task.user_endpoint)
        return {
            "id": task.id,
            "function": task.function,
            "function_name": function.name if function else "",
            "endpoint": task.endpoint,
            "user_endpoint": task.user_endpoint,
            "user_endpoint_config": child.config if child else {},
            "owner": task.owner,
            "status": task.status,
            "submitted": task.submitted,
            "completed": task.completed,
            "exception": task.exception,
            "results": task.results,
        }


async def _body(request: web.Request, kind: type[T], **more: str) -> T:
    """The request's JSON as such a record. Raises `RefusedError` if it is none."""
    try:
        return msgspec.convert({**await request.json(), **more}, type=kind)
    except (ValueError, msgspec.ValidationError) as error:
        raise RefusedError(400, "BAD_REQUEST", str(error)) from error
