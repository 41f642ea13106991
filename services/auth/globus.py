"""Asks Globus Auth whose a token is, and Globus Groups for the groups of its bearer."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import globus_sdk
from globus_sdk.transport import RequestsTransport, RetryConfig

from services.auth.calls import CallThreads
from services.auth.globus_identity import Told, check_token, to_principal
from services.auth.identity_config import GlobusConfig
from services.auth.recall import Identified
from services.core.access import MeshPolicy
from services.core.errors import Reason, ServiceError

log = logging.getLogger(__name__)

_GROUPS: Final = "groups.api.globus.org"
_VIEW_GROUPS: Final = f"urn:globus:auth:scope:{_GROUPS}:view_my_groups_and_memberships"
_INCLUDE: Final = "session_info,identity_set_detail"
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,4096}=*")
"""What a bearer token may look like (RFC 6750); anything else is not worth a question."""

_AWAY: Final = "Globus does not answer, so that your token cannot be judged; try again shortly."


class GlobusAuth:
    """Globus Auth and Groups through the globus-sdk, on threads of their own: it blocks, and no event loop waits."""

    def __init__(
        self, config: GlobusConfig, secret: str, mesh: MeshPolicy, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._secret = secret
        self._mesh = mesh
        self._clock = clock
        self._policies = ",".join(
            dict.fromkeys((*mesh.access.authentication_policies, *config.authentication_policies))
        )
        self._threads = CallThreads("globus-auth", config.threads, waiting=config.waiting)
        self._own = threading.local()

    async def ask(self, token: str) -> Identified:
        """Whose the token is. Raises CREDENTIAL_INVALID, CREDENTIAL_EXPIRED, SESSION_INSUFFICIENT, or AUTH_UNAVAILABLE
        while Globus does not answer: an outage says nothing of a token.
        """
        if _TOKEN.fullmatch(token) is None:
            raise ServiceError(Reason.CREDENTIAL_INVALID)
        return await self._threads.call(lambda: self._learn(token))

    def close(self) -> None:
        """Ends the threads, each with its call."""
        self._threads.close()

    # On a thread

    def _learn(self, token: str) -> Identified:
        now = self._clock()
        told = self._introspect(token)
        until = check_token(told, client_id=self._config.client_id, scope=self._config.own_scope, now=now)
        groups = self._groups(token) if self._config.ask_groups else ()
        return Identified(to_principal(told, groups, self._mesh, now), until)

    def _introspect(self, token: str) -> Told:
        form = {"token": token, "include": _INCLUDE}
        if self._policies:
            form["authentication_policies"] = self._policies
        try:
            # As `oauth2_token_introspect`, which cannot ask for policies.
            answer = self._auth().post("/v2/oauth2/token/introspect", data=form, encoding="form").data
        except globus_sdk.GlobusError as error:
            raise _outage("introspect a token", error) from None
        if not isinstance(answer, dict):
            raise _outage("introspect a token", None)
        return answer

    def _groups(self, token: str) -> Iterable[str]:
        try:
            tokens = self._auth().oauth2_get_dependent_tokens(token, scope=_VIEW_GROUPS).by_resource_server
        except globus_sdk.GlobusAPIError as error:
            raise _refusal(error) or _outage("get a token for Globus Groups", error) from None
        except globus_sdk.GlobusError as error:
            raise _outage("get a token for Globus Groups", error) from None
        if _GROUPS not in tokens:
            log.error("the scope %s does not depend on %s; see docs/identity.md", self._config.own_scope, _VIEW_GROUPS)
            raise ServiceError(Reason.AUTH_UNAVAILABLE, _AWAY)
        authorizer = globus_sdk.AccessTokenAuthorizer(tokens[_GROUPS]["access_token"])
        client = globus_sdk.GroupsClient(authorizer=authorizer, transport=self._transport(), retry_config=_once())
        try:
            return active_groups(client.get_my_groups(statuses="active").data)
        except globus_sdk.GlobusError as error:
            raise _outage("ask Globus Groups", error) from None

    def _auth(self) -> globus_sdk.ConfidentialAppAuthClient:
        """One for each thread: the sessions beneath are not made for several."""
        client: globus_sdk.ConfidentialAppAuthClient | None = getattr(self._own, "auth", None)
        if client is None:
            client = self._own.auth = globus_sdk.ConfidentialAppAuthClient(
                self._config.client_id, self._secret, transport=self._transport(), retry_config=_once()
            )
        return client

    def _transport(self) -> RequestsTransport:
        transport: RequestsTransport | None = getattr(self._own, "transport", None)
        if transport is None:
            transport = self._own.transport = RequestsTransport(http_timeout=self._config.timeout_s)
        return transport


def _once() -> RetryConfig:
    """One more attempt, soon: routers wait some seconds, and ask again by themselves."""
    return RetryConfig(max_retries=1, max_sleep=0.25)


def active_groups(answer: Any) -> tuple[str, ...]:
    """The groups with an active membership: whoever is merely invited, or waits to be let in, is no member."""
    return tuple(
        str(group["id"])
        for group in (answer if isinstance(answer, list) else ())
        if any(membership.get("status") == "active" for membership in group.get("my_memberships", ()))
    )


def _refusal(error: globus_sdk.GlobusAPIError) -> ServiceError | None:
    """What Globus Auth has against the caller's token, if it is that."""
    said = (error.raw_json or {}).get("error")
    if said == "invalid_grant":
        return ServiceError(Reason.CREDENTIAL_INVALID, "Globus does not know this token; log in: 'weft login'.")
    if said in ("dependent_consent_required", "consent_required") or error.info.consent_required:
        message = "You have not consented that Weft sees your Globus groups. Log in again: 'weft login --force'."
        return ServiceError(Reason.SESSION_INSUFFICIENT, message)
    return None


def _outage(action: str, error: Exception | None) -> ServiceError:
    """Says in the log what happened, without the answer's body or the exception: neither is ours to show."""
    status = getattr(error, "http_status", None)
    if status == 401:
        log.error("Globus Auth does not accept auth.globus.client_id and its secret (to %s); check both", action)
    else:
        log.warning("could not %s: %s", action, f"HTTP {status}" if status else type(error).__name__)
    return ServiceError(Reason.AUTH_UNAVAILABLE, _AWAY)
