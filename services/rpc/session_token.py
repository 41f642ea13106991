"""Session tokens as routers verify them: by auth's public keys, which are fetched once and kept."""

from __future__ import annotations

import asyncio
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
from services.rpc.errors import from_rpc_error

AUDIENCE: Final = "weft-session"
ALGORITHM: Final = "EdDSA"

_TIMEOUT: Final = 5.0
_REFETCH: Final = 5.0
"""Seconds between two fetches because of an unknown key: tokens with invented ids must not become a flood for auth."""


@dataclass(frozen=True, slots=True)
class SessionClaims:
    """Who may speak for what. `expires_at` is in seconds since 1970."""

    endpoint: str
    instance: str
    principal: str
    expires_at: float


def verify(token: str, keys: Mapping[str, Ed25519PublicKey]) -> SessionClaims:
    """The claims of a token. Raises CREDENTIAL_EXPIRED or CREDENTIAL_INVALID."""
    try:
        key = keys[_key_id(token)]
        # The one algorithm that we sign with: a token must not choose how it is verified (RFC 8725, 3.1).
        claims: dict[str, Any] = jwt.decode(
            token, key, algorithms=[ALGORITHM], audience=AUDIENCE, options={"require": ["exp", "sub", "aud"]}
        )
        return SessionClaims(claims["endpoint"], claims["instance"], claims["sub"], float(claims["exp"]))
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
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def verify(self, token: str) -> SessionClaims:
        """The claims of a token. Raises CREDENTIAL_INVALID, CREDENTIAL_EXPIRED or AUTH_UNAVAILABLE."""
        try:
            known = _key_id(token) in self._keys
        except jwt.PyJWTError as error:
            raise ServiceError(Reason.CREDENTIAL_INVALID, "This is not a session token; enrol first.") from error
        if not known:
            await self._fetch()
        return verify(token, self._keys)

    async def _fetch(self) -> None:
        async with self._fetching:
            if self._clock() - self._fetched_at < _REFETCH:
                return
            try:
                answer = await self._auth.ListVerificationKeys(
                    auth_pb2.ListVerificationKeysRequest(), metadata=bearer(self._service_key()), timeout=_TIMEOUT
                )
            except grpc.RpcError as error:
                raise from_rpc_error(error, unavailable=Reason.AUTH_UNAVAILABLE) from error
            self._fetched_at = self._clock()
            self._keys = {key.id: Ed25519PublicKey.from_public_bytes(key.public_key) for key in answer.keys}
