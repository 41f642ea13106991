"""Judges JWTs (RFC 7519, 9068) of an issuer of OpenID Connect."""

from __future__ import annotations

import binascii
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt

from services.auth.claims import moment
from services.auth.identity_config import IssuerConfig
from services.auth.oidc_identity import Claims, to_principal
from services.auth.oidc_keys import IssuerKeys, PublicKey
from services.auth.recall import Identified
from services.core.errors import Reason, ServiceError

_LONGEST: Final = 16_384
_JWT: Final = re.compile(r"[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]*")


def issuer_of(credential: str) -> str | None:
    """What a credential that looks like a JWT says of its issuer, unproven: only good to know whom to ask. Empty if it
    says nothing, None for something that is no JWT.
    """
    if len(credential) > _LONGEST or _JWT.fullmatch(credential) is None:
        return None
    header, claims, _ = credential.split(".")
    if not _decoded(header):
        return None
    issuer = _decoded(claims).get("iss")
    return issuer if isinstance(issuer, str) else ""


class OidcIssuer:
    """One issuer, by its configuration."""

    def __init__(
        self, config: IssuerConfig, keys: IssuerKeys | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._keys = keys or IssuerKeys(
            config.issuer,
            timeout=config.timeout_s,
            kept_for=config.keys_kept_for_s,
            every=config.keys_asked_every_s,
        )
        self._clock = clock

    async def ask(self, token: str) -> Identified:
        """Whose the token is. Raises CREDENTIAL_INVALID, CREDENTIAL_EXPIRED, IDENTITY_FORBIDDEN for a username that can
        be no principal's, or AUTH_UNAVAILABLE if the issuer's keys cannot be had.
        """
        header = _decoded(token.partition(".")[0])
        algorithm, key_id = header.get("alg"), header.get("kid")
        # By our list, never by the token's word alone; and nothing that it marks as critical (RFC 7515, 4.1.11).
        if algorithm not in self._config.algorithms or "crit" in header:
            raise self._invalid("it is not signed with an algorithm that is allowed")
        if not isinstance(key_id, str | None):
            raise self._invalid("the id of its key is no text")
        key = await self._keys.find(key_id)
        if algorithm not in key.algorithms:
            raise self._invalid("its key is for another algorithm")
        now = self._clock()
        claims = self._verify(token, key, algorithm)
        until = self._check_times(claims, now)
        return Identified(to_principal(claims, self._config, now), until)

    def _verify(self, token: str, key: PublicKey, algorithm: str) -> Claims:
        config = self._config
        try:
            claims: Claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=config.audiences,
                issuer=config.issuer,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    # By our clock, below: PyJWT's own looks at the machine's.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidAudienceError:
            raise self._invalid("it was given for another service") from None
        except jwt.PyJWTError as error:
            raise self._invalid(_WRONG.get(type(error), "it is malformed")) from None
        if config.clients and not any(claims.get(name) in config.clients for name in ("azp", "client_id")):
            raise self._invalid("it was given to another application")
        if config.scope and config.scope not in _words(claims.get("scope", claims.get("scp"))):
            raise self._invalid(f"it does not have the scope {config.scope}")
        return claims

    def _check_times(self, claims: Claims, now: float) -> float:
        """When it expires."""
        expires, begins = moment(claims["exp"]), moment(claims.get("nbf", 0))
        if expires is None or begins is None:
            raise self._invalid("its times are no numbers")
        if now >= expires + self._config.leeway_s:
            message = f"The token of {self._config.name} has expired; get a new one."
            raise ServiceError(Reason.CREDENTIAL_EXPIRED, message)
        if now < begins - self._config.leeway_s:
            raise self._invalid("it is not valid yet")
        return expires + self._config.leeway_s

    def _invalid(self, why: str) -> ServiceError:
        message = f"The token of {self._config.name} is not good here: {why}."
        return ServiceError(Reason.CREDENTIAL_INVALID, message)


_WRONG: Final[Mapping[type[Exception], str]] = {
    jwt.InvalidSignatureError: "its signature is not its issuer's",
    jwt.InvalidIssuerError: "it is another issuer's",
    jwt.MissingRequiredClaimError: "it lacks one of 'exp', 'iss', 'aud' and 'sub'",
    jwt.InvalidKeyError: "its key is for another algorithm",
    jwt.InvalidAlgorithmError: "it is not signed with an algorithm that is allowed",
}


def _decoded(part: str) -> dict[str, Any]:
    try:
        found = json.loads(jwt.utils.base64url_decode(part))
    except (ValueError, binascii.Error, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _words(said: Any) -> list[Any]:
    return said.split() if isinstance(said, str) else said if isinstance(said, list) else []
