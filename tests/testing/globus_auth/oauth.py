"""Globus Auth's OAuth 2 routes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.testing.globus_auth.records import (
    GROUPS,
    VIEW_GROUPS,
    App,
    Code,
    Grant,
    Identity,
    Person,
    Session,
    new_token,
)

if TYPE_CHECKING:
    from tests.testing.globus_auth.stand_in import GlobusAuth

ISSUER = "https://auth.globus.org"
LIFE = 172_800
CLIENTS_PROVIDER = "3a8b8c8e-3a8b-4a8b-8a8b-0a8b8c8e3a8b"
DEPENDENT = "urn:globus:auth:grant_type:dependent_token"


class OAuthRoutes:
    """The routes of Globus Auth."""

    def __init__(self, state: GlobusAuth) -> None:
        self._state = state
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def routes(self) -> list[web.AbstractRouteDef]:
        """What is answered."""
        return [
            web.get("/.well-known/openid-configuration", self._discover),
            web.get("/jwk.json", self._keys),
            web.get("/v2/oauth2/authorize", self._authorize),
            web.get("/v2/web/auth-code", self._show_code),
            web.post("/v2/oauth2/token", self._token),
            web.post("/v2/oauth2/token/introspect", self._introspect),
            web.post("/v2/oauth2/token/revoke", self._revoke),
            web.get("/v2/oauth2/userinfo", self._userinfo),
        ]

    async def _discover(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": ISSUER,
                "authorization_endpoint": f"{self._state.url}/v2/oauth2/authorize",
                "token_endpoint": f"{self._state.url}/v2/oauth2/token",
                "userinfo_endpoint": f"{self._state.url}/v2/oauth2/userinfo",
                "revocation_endpoint": f"{self._state.url}/v2/oauth2/token/revoke",
                "jwks_uri": f"{self._state.url}/jwk.json",
                "id_token_signing_alg_values_supported": ["RS512"],
            }
        )

    async def _keys(self, request: web.Request) -> web.Response:
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return web.json_response({"keys": [{**key, "alg": "RS512", "use": "sig", "kid": "stand-in"}]})

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        """As if whoever sits at the browser logged in and consented at once."""
        person = self._state.browser
        if person is None:
            return web.Response(status=401, text="Nobody sits at the browser.")
        query = dict(request.query)
        code = self._state.give_code(query, person, self._state.session(person))
        back = urlencode({"code": code, "state": query.get("state", "")})
        raise web.HTTPFound(f"{query['redirect_uri']}?{back}")

    async def _show_code(self, request: web.Request) -> web.Response:
        return web.Response(text=request.query.get("code", ""))

    # Tokens

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        client = self._client(request, form)
        if client is None:
            return _refused(401, "invalid_client")
        kind = form.get("grant_type")
        if kind == "client_credentials" and client.secret:
            return self._give(client, client, tuple(form.get("scope", "").split()), Session())
        if kind == "authorization_code":
            return self._exchange(client, form)
        if kind == "refresh_token":
            grant = self._state.refresh_tokens.get(form.get("refresh_token", ""))
            if grant is None or grant.client is not client:
                return _refused(400, "invalid_grant")
            return self._give(grant.owner, client, grant.scopes, grant.session, refresh=form["refresh_token"])
        if kind == DEPENDENT and client.secret:
            return self._give_dependent(client, form)
        return _refused(400, "unsupported_grant_type")

    def _exchange(self, client: App, form: dict[str, str]) -> web.Response:
        code: Code | None = self._state.codes.pop(form.get("code", ""), None)
        if code is None or code.client is not client or code.redirect_uri != form.get("redirect_uri"):
            return _refused(401, "invalid_grant")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if code.challenge and base64.urlsafe_b64encode(digest).decode().rstrip("=") != code.challenge:
            return _refused(401, "invalid_grant")
        return self._give(code.owner, client, code.scopes, code.session, offline=code.offline)

    def _give(
        self,
        owner: Person | App,
        client: App,
        scopes: tuple[str, ...],
        session: Session,
        *,
        offline: bool = False,
        refresh: str = "",
    ) -> web.Response:
        """One token for each resource server; those after the first are under `other_tokens`."""
        by_server: dict[str, list[str]] = {}
        for scope in scopes:
            by_server.setdefault(self._state.server_of(scope), []).append(scope)
        if not by_server:
            return _refused(400, "invalid_scope")
        given = []
        for server, own in by_server.items():
            token, again = new_token(), refresh or (new_token() if offline else "")
            grant = Grant(owner, client, tuple(own), server, session, time.time() + LIFE, again or None)
            self._state.tokens[token] = grant
            if again:
                self._state.refresh_tokens[again] = grant
            given.append(_given(token, grant))
        answer = {**given[0], "state": "_default", "other_tokens": given[1:]}
        if isinstance(owner, Person) and any("openid" in scope for scope in scopes):
            answer["id_token"] = self._id_token(owner, client, session)
        return web.json_response(answer)

    def _give_dependent(self, client: App, form: dict[str, str]) -> web.Response:
        grant = self._state.tokens.get(form.get("token", ""))
        if grant is None or grant.resource_server != client.id or grant.expires <= time.time():
            return _refused(401, "invalid_grant")
        asked = form.get("scope", "").split()
        if not client.sees_groups or (asked and asked != [VIEW_GROUPS]):
            return web.json_response([]) if not asked else _refused(400, "invalid_scope")
        token = new_token()
        further = Grant(grant.owner, client, (VIEW_GROUPS,), GROUPS, grant.session, grant.expires)
        self._state.tokens[token] = further
        return web.json_response([_given(token, further)])

    def _id_token(self, person: Person, client: App, session: Session) -> str:
        now = int(time.time())
        who = person.identities[0]
        claims = {
            **_described(who, session),
            "preferred_username": who.username,
            "identity_set": [_described(one, session) for one in person.identities],
            "iss": ISSUER,
            "aud": client.id,
            "iat": now,
            "exp": now + LIFE,
        }
        return jwt.encode(claims, self._key, algorithm="RS512", headers={"kid": "stand-in"})

    # Questions

    async def _introspect(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        client = self._client(request, form)
        if client is None or not client.secret:
            return _refused(401, "invalid_client")
        grant = self._state.tokens.get(form.get("token", ""))
        if grant is None or grant.expires <= time.time():
            return web.json_response({"active": False})
        if client.id not in self._audience(grant) and not self._state.lenient:
            return web.json_response({"active": False})
        answer = self._told(grant)
        include = form.get("include", "").split(",")
        if "identity_set_detail" in include:
            answer["identity_set_detail"] = self._detail(grant)
        if "session_info" in include:
            answer["session_info"] = {
                "session_id": grant.session.id,
                "authentications": {
                    identity: {
                        "idp": login.idp,
                        "auth_time": login.auth_time,
                        "acr": login.acr,
                        "amr": login.amr,
                        "custom_claims": {},
                    }
                    for identity, login in grant.session.authentications.items()
                },
            }
        if policies := form.get("authentication_policies"):
            identities = grant.owner.identities if isinstance(grant.owner, Person) else []
            answer["policy_evaluations"] = {
                policy: {"evaluation": known.holds(grant.session, identities)}
                for policy in policies.split(",")
                if (known := self._state.policies.get(policy)) is not None
            }
        return web.json_response(answer)

    def _told(self, grant: Grant) -> dict[str, Any]:
        if isinstance(grant.owner, Person):
            who = grant.owner.identities[0]
            identity, username, name = who.id, who.username, who.name
        else:
            identity, username, name = grant.owner.id, grant.owner.username, grant.owner.name
        return {
            "active": True,
            "token_type": "Bearer",
            "scope": " ".join(grant.scopes),
            "client_id": grant.client.id,
            "sub": identity,
            "username": username,
            "name": name,
            "email": username,
            "aud": self._audience(grant),
            "iss": ISSUER,
            "exp": int(grant.expires),
            "iat": int(grant.expires) - LIFE,
            "nbf": int(grant.expires) - LIFE,
        }

    def _audience(self, grant: Grant) -> list[str]:
        return [grant.resource_server, *([grant.client.id] if grant.resource_server == "auth.globus.org" else [])]

    def _detail(self, grant: Grant) -> list[dict[str, Any]]:
        if isinstance(grant.owner, Person):
            return [_described(one, grant.session) for one in grant.owner.identities]
        app = grant.owner
        own = Identity(app.username, app.name, CLIENTS_PROVIDER, "Globus Auth Clients", app.id)
        return [_described(own, grant.session)]

    async def _userinfo(self, request: web.Request) -> web.Response:
        grant = self._state.tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if grant is None or grant.resource_server != "auth.globus.org" or not isinstance(grant.owner, Person):
            return _refused(401, "unauthorized")
        who = grant.owner.identities[0]
        identities = [_described(one, grant.session) for one in grant.owner.identities]
        told = {**_described(who, grant.session), "preferred_username": who.username, "identity_set": identities}
        return web.json_response(told)

    async def _revoke(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if self._client(request, form) is None:
            return _refused(401, "invalid_client")
        self._state.revoke(form.get("token", ""))
        return web.json_response({"active": False})

    def _client(self, request: web.Request, form: dict[str, str]) -> App | None:
        """Who asks: a confidential application by its secret, a native one by its id alone."""
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                identity, _, secret = base64.b64decode(encoded).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
            app = self._state.apps.get(identity)
            return app if app is not None and app.secret and app.secret == secret else None
        app = self._state.apps.get(form.get("client_id", ""))
        return app if app is not None and not app.secret else None


def _given(token: str, grant: Grant) -> dict[str, Any]:
    told = {
        "access_token": token,
        "scope": " ".join(grant.scopes),
        "expires_in": int(grant.expires - time.time()),
        "token_type": "Bearer",
        "resource_server": grant.resource_server,
    }
    return told | ({"refresh_token": grant.refresh} if grant.refresh else {})


def _described(identity: Identity, session: Session) -> dict[str, Any]:
    login = session.authentications.get(identity.id)
    return {
        "sub": identity.id,
        "username": identity.username,
        "name": identity.name,
        "email": identity.username,
        "organization": identity.provider_name,
        "identity_provider": identity.provider,
        "identity_provider_display_name": identity.provider_name,
        "status": "used",
        "last_authentication": login.auth_time if login else None,
    }


def _refused(status: int, error: str) -> web.Response:
    detail = {"status": str(status), "code": error.upper(), "title": error, "detail": error}
    return web.json_response({"error": error, "error_description": error, "errors": [detail]}, status=status)
