"""Registration of functions."""

from __future__ import annotations

import time
import uuid

from aiohttp import web

from tests.globus.service.auth import Auth
from tests.globus.service.errors import RefusedError
from tests.globus.service.records import Function
from tests.globus.service.state import State


class Functions:
    """The functions that may be run at endpoints."""

    def __init__(self, state: State, auth: Auth) -> None:
        self._state, self._auth = state, auth

    def routes(self) -> web.RouteTableDef:
        """The routes that concern functions."""
        table = web.RouteTableDef()
        table.post("/v3/functions")(self._register)
        table.get("/v2/functions/{id}")(self._get)
        table.delete("/v2/functions/{id}")(self._delete)
        return table

    def find(self, id: str) -> Function:
        """The function. Raises `RefusedError`."""
        function = self._state.functions.get(id)
        if function is None:
            raise RefusedError(404, "FUNCTION_NOT_FOUND", f"Function {id} could not be resolved")
        return function

    async def _register(self, request: web.Request) -> web.Response:
        caller, body = self._auth.caller(request), await request.json()
        code: str = body["function_code"]
        function = Function(
            id=str(uuid.uuid4()),
            owner=caller.id,
            name=body["function_name"],
            code=code,
            packed=code if body.get("serialized", True) else _frame(body["function_name"], code),
            description=body.get("description") or "",
            meta=body.get("meta") or {},
            ha_endpoint=body.get("ha_endpoint_id") or "",
            registered=time.time(),
        )
        self._state.keep(function)
        return web.json_response({"function_uuid": function.id})

    async def _get(self, request: web.Request) -> web.Response:
        self._auth.caller(request)
        function = self.find(request.match_info["id"])
        return web.json_response(
            {
                "function_uuid": function.id,
                "function_name": function.name,
                "function_code": function.code,
                "description": function.description,
                "ha_endpoint_id": function.ha_endpoint or None,
                "meta": function.meta,
            }
        )

    async def _delete(self, request: web.Request) -> web.Response:
        function = self.find(request.match_info["id"])
        if function.owner != self._auth.caller(request).id:
            raise RefusedError(403, "FUNCTION_ACCESS_FORBIDDEN", f"Function {function.id} is somebody else's")
        self._state.forget(function)
        return web.json_response({"result": 302})


def _frame(name: str, source: str) -> str:
    """Source as it was typed, in the frame of the SDK's `PureSourceTextInspect`, which endpoints unpack."""
    buffer = f"st\n{name}:{source}"
    return f"{len(buffer)}\n{buffer}"
