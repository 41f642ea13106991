"""As much of Globus Auth as client credentials need."""

from __future__ import annotations

import base64
import binascii
import uuid
from typing import Any

from aiohttp import web

from tests.globus.service.errors import RefusedError
from tests.globus.service.records import Client, Token
from tests.globus.service.state import State

LIFE_SECONDS = 172_800
COMPUTE_CLIENT = "facd7ccc-c5f4-42aa-916b-a0e270e2c2a9"
"""What all scopes of Globus Compute have in their URL."""


class Auth:
    """Who asks, and with what token."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> web.RouteTableDef:
        """The routes of Globus Auth."""
        table = web.RouteTableDef()
        table.post("/v2/oauth2/token")(self._give_token)
        table.get("/v2/oauth2/userinfo")(self._userinfo)
        table.post("/v2/oauth2/token/revoke")(self._revoke)
        table.get("/v2/api/identities")(self._identities)
        return table

    def caller(self, request: web.Request) -> Client:
        """Whose token the request carries. Raises `RefusedError`."""
        token = self._state.tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        client = self._state.clients.get(token.client) if token else None
        if client is None:
            raise RefusedError(401, "UNAUTHORIZED", "The bearer token is not known, or no longer valid.")
        return client

    def drop_tokens(self, client: str) -> None:
        """Makes all tokens of a client worthless."""
        for token in [token for token in self._state.tokens.values() if token.client == client]:
            self._state.forget(token)

    async def _give_token(self, request: web.Request) -> web.Response:
        form = await request.post()
        id, secret = _credentials(request)
        client = self._state.clients.get(id)
        if client is None or client.secret != secret or form.get("grant_type") != "client_credentials":
            return web.json_response({"error": "invalid_client", "errors": [{"detail": "invalid_client"}]}, status=401)
        by_server: dict[str, list[str]] = {}
        for scope in str(form.get("scope", "")).split():
            by_server.setdefault("funcx_service" if COMPUTE_CLIENT in scope else "auth.globus.org", []).append(scope)
        first, *others = [self._token(client, server, scopes) for server, scopes in by_server.items()]
        return web.json_response({**first, "other_tokens": others})

    def _token(self, client: Client, resource_server: str, scopes: list[str]) -> dict[str, Any]:
        token = Token(id=f"emulated-{uuid.uuid4().hex}", client=client.id)
        self._state.keep(token)
        return {
            "access_token": token.id,
            "scope": " ".join(scopes),
            "expires_in": LIFE_SECONDS,
            "token_type": "Bearer",
            "resource_server": resource_server,
        }

    async def _revoke(self, request: web.Request) -> web.Response:
        token = self._state.tokens.get(str((await request.post()).get("token", "")))
        if token is not None:
            self._state.forget(token)
        return web.json_response({"active": False})

    async def _userinfo(self, request: web.Request) -> web.Response:
        identity = self.caller(request).identity()
        return web.json_response({**identity, "identity_set": [identity]})

    async def _identities(self, request: web.Request) -> web.Response:
        self.caller(request)
        asked = request.query.get("ids", "").split(",")
        known = [client.identity() for client in self._state.clients.values() if client.id in asked]
        return web.json_response({"identities": known})


def _credentials(request: web.Request) -> tuple[str, str]:
    """The id and the secret of HTTP's basic authentication, empty if there are none."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        id, _, secret = base64.b64decode(encoded).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return id, secret
