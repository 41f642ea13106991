"""The public keys of an issuer of OpenID Connect: discovered, fetched, rotated."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.core.errors import Reason, ServiceError

log = logging.getLogger(__name__)

_LARGEST: Final = 1 << 20
_MOST_KEYS: Final = 100
_AWAY: Final = "The issuer of your token does not answer, so that it cannot be judged; try again shortly."


_ALGORITHMS: Final[Mapping[tuple[Any, Any], frozenset[str]]] = {
    ("RSA", None): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}
_SHORTEST_RSA: Final = 2048


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key, and the algorithms that its signatures may be of."""

    key: Any
    algorithms: frozenset[str]


class IssuerKeys:
    """An issuer's keys by id (RFC 7517), from where its discovery document says (OpenID Connect Discovery 1.0).

    They are fetched anew when they are `kept_for` seconds old, so that a key that the issuer withdraws is worth
    nothing after that; and for an id that is not among them, at most each `every` seconds, so that made-up ids are no
    way to keep us, or the issuer, busy.
    """

    def __init__(
        self,
        issuer: str,
        *,
        timeout: float,
        kept_for: float,
        every: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._kept_for = kept_for
        self._every = every
        self._clock = clock
        self._keys: Mapping[str, PublicKey] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str | None) -> PublicKey:
        """The key with this id; without one, the only key that there is. Raises CREDENTIAL_INVALID if there is none,
        AUTH_UNAVAILABLE if the issuer does not answer.
        """
        if self._clock() >= self._fetched_at + self._kept_for or self._pick(key_id) is None:
            async with self._fetching:
                await self._refresh(key_id)
        if (key := self._pick(key_id)) is not None:
            return key
        # So shortly refused, as a key that was added just now is found by the next fetch.
        soon = max(0.1, self._tried_at + self._every - self._clock())
        message = "The token is signed with a key that its issuer does not publish."
        raise ServiceError(Reason.CREDENTIAL_INVALID, message, retry_after=soon)

    async def _refresh(self, key_id: str | None) -> None:
        now = self._clock()
        expired = now >= self._fetched_at + self._kept_for
        if not expired and (self._pick(key_id) is not None or now < self._tried_at + self._every):
            return  # Somebody else has fetched them meanwhile, or did so a moment ago.
        if expired and now < self._tried_at + min(1.0, self._every):
            raise ServiceError(Reason.AUTH_UNAVAILABLE, _AWAY)
        self._tried_at = now
        try:
            self._keys = await self._fetch()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            log.warning("the keys of %s cannot be had: %s", self._issuer, _told(error))
            raise ServiceError(Reason.AUTH_UNAVAILABLE, _AWAY) from None
        self._fetched_at = now

    def _pick(self, key_id: str | None) -> PublicKey | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    async def _fetch(self) -> dict[str, PublicKey]:
        async with aiohttp.ClientSession(timeout=self._timeout, trust_env=True) as session:
            document = await _get(session, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if document.get("issuer") != self._issuer:
                raise ValueError(f"its discovery document is that of {str(document.get('issuer'))[:200]!r}")
            place = document.get("jwks_uri")
            if not isinstance(place, str) or not place.startswith(("https://", f"{self._issuer.rstrip('/')}/")):
                raise ValueError("its discovery document names no safe 'jwks_uri'")
            published = (await _get(session, place)).get("keys")
        keys: dict[str, PublicKey] = {}
        for one in (published if isinstance(published, list) else [])[:_MOST_KEYS]:
            if (key := read_key(one)) is not None:
                keys[str(one.get("kid", ""))] = key
        if not keys:
            raise ValueError("it publishes no key that signs")
        return keys


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}")
        body = bytearray()
        async for chunk in answer.content.iter_chunked(1 << 16):
            body += chunk
            if len(body) > _LARGEST:
                raise ValueError(f"an answer above {_LARGEST} bytes")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("an answer that is no JSON object")
    return found


def read_key(published: Any) -> PublicKey | None:
    """A public key for signatures; None for one for encryption, a symmetric or private one, one that is too short, or
    one that we do not know.
    """
    if not isinstance(published, dict) or "d" in published or published.get("use", "sig") != "sig":
        return None
    curve = published.get("crv") if published.get("kty") != "RSA" else None
    try:
        algorithms = _ALGORITHMS.get((published.get("kty"), curve), frozenset())
        if (own := published.get("alg")) is not None:
            algorithms &= {own}
        if not algorithms:
            return None
        key = jwt.PyJWK(published, algorithm=min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < _SHORTEST_RSA:
        return None
    return PublicKey(key, algorithms)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else type(error).__name__
