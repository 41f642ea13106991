"""Session tokens as routers verify them: by auth's public keys, which are fetched once and kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.rpc.channel import bearer

AUDIENCE: Final = "weft-session"
ALGORITHM: Final = "EdDSA"

_TIMEOUT: Final = 5.0
_REFETCH: Final = 5.0
"""Seconds between two fetches because of an unknown key: tokens with invented ids must not become a flood for auth."""

_REFRESH: Final = 300.0
"""Seconds after which the keys are fetched anew: one that auth has removed must not verify for ever."""

_RETRY: Final = 1.0
"""Seconds between two fetches when auth does not answer."""


@dataclass(frozen=True, slots=True)
class SessionClaims:
    """Who may speak for what, until when (seconds since 1970), and by what: an API key (its id), or an enrolled start.

    `serves` is the one principal whom the worker serves; empty means that it is shared.
    """

    endpoint: str
    instance: str
    principal: str
    expires_at: float
    key: str = ""
    start: str = ""
    serves: str = ""


def verify(token: str, keys: Mapping[str, Ed25519PublicKey]) -> SessionClaims:
    """The claims of a token. Raises CREDENTIAL_EXPIRED or CREDENTIAL_INVALID."""
    try:
        key = keys[_key_id(token)]
        # The one algorithm that we sign with: a token must not choose how it is verified (RFC 8725, 3.1).
        claims: dict[str, Any] = jwt.decode(
            token, key, algorithms=[ALGORITHM], audience=AUDIENCE, options={"require": ["exp", "sub", "aud"]}
        )
        return SessionClaims(
            claims["endpoint"],
            claims["instance"],
            claims["sub"],
            float(claims["exp"]),
            claims["key"],
            # An auth of the version before, while both run, knows no starts.
            claims.get("start", ""),
            claims.get("serves", ""),
        )
    except jwt.ExpiredSignatureError as error:
        raise ServiceError(Reason.CREDENTIAL_EXPIRED, "The session token has expired; enrol again.") from error
    except (jwt.PyJWTError, KeyError) as error:
        raise ServiceError(Reason.CREDENTIAL_INVALID, "The session token is not one of ours; enrol again.") from error


def _key_id(token: str) -> str:
    return str(jwt.get_unverified_header(token).get("kid", ""))


class SessionTokenVerifier:
    """Verifies tokens. Works on while auth is away, once it has the keys."""

    def __init__(
        self,
        auth: auth_pb2_grpc.AuthServiceStub,
        service_key: Callable[[], str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._auth = auth
        self._service_key = service_key
        self._clock = clock
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._fetch_again_at = float("-inf")
        self._refresh_at = float("-inf")
        self._fetched_at = float("-inf")
        self._away = False
        self._fetching = asyncio.Lock()

    async def verify(self, token: str) -> SessionClaims:
        """The claims of a token. Raises CREDENTIAL_INVALID, CREDENTIAL_EXPIRED or AUTH_UNAVAILABLE."""
        try:
            key = _key_id(token)
        except jwt.PyJWTError as error:
            raise ServiceError(Reason.CREDENTIAL_INVALID, "This is not a session token; enrol first.") from error
        asked_at = self._clock()
        if key not in self._keys:
            await self._fetch()
            if key not in self._keys and self._fetched_at < asked_at:
                # It may be younger than what we have. A worker that was enrolled ends for good if it is called invalid.
                raise ServiceError(Reason.AUTH_UNAVAILABLE, retry_after=_REFETCH)
        elif asked_at >= self._refresh_at:
            with contextlib.suppress(ServiceError):  # Auth is away, and the keys that we have go on.
                await self._fetch()
        return verify(token, self._keys)

    async def _fetch(self) -> None:
        async with self._fetching:
            if self._clock() < self._fetch_again_at:
                if self._away:
                    raise ServiceError(Reason.AUTH_UNAVAILABLE, retry_after=_RETRY)
                return
            asked_at = self._clock()
            try:
                answer = await self._auth.ListVerificationKeys(
                    auth_pb2.ListVerificationKeysRequest(), metadata=bearer(self._service_key()), timeout=_TIMEOUT
                )
            except (grpc.RpcError, OSError) as error:
                # Those who waited for this need not wait for auth one after another.
                self._away, self._fetch_again_at = True, self._clock() + _RETRY
                # Whatever auth said, our own key refused included: it was not about the worker's token.
                raise ServiceError(Reason.AUTH_UNAVAILABLE, retry_after=_RETRY) from error
            self._away, self._fetch_again_at = False, self._clock() + _REFETCH
            self._fetched_at, self._refresh_at = asked_at, self._clock() + _REFRESH
            self._keys = {key.id: Ed25519PublicKey.from_public_bytes(key.public_key) for key in answer.keys}
