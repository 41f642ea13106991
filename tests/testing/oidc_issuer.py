"""A stand-in of an issuer of OpenID Connect: discovery, keys that rotate, and tokens with whatever is in them.

with OidcIssuer() as issuer:
    config = IssuerConfig(name="corp", issuer=issuer.url, audiences=("weft",))
    token = issuer.token(sub="ada", aud="weft")
    issuer.rotate()                     # from now on it signs with, and publishes, another key
    issuer.fail("/", 503)               # see `HostedSite`
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.testing.hosted_site import HostedSite


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A key of the issuer, and what it signs with."""

    private: Any
    algorithm: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def published(self) -> dict[str, Any]:
        """The public half, as a JWK (RFC 7517)."""
        kind = jwt.algorithms.RSAAlgorithm if self.algorithm.startswith(("RS", "PS")) else jwt.algorithms.ECAlgorithm
        key = json.loads(kind.to_jwk(self.private.public_key()))
        return {**key, "kid": self.id, "use": "sig", "alg": self.algorithm}

    @property
    def pem(self) -> bytes:
        """The public half, as everybody may have it."""
        encoding, layout = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        pem: bytes = self.private.public_key().public_bytes(encoding, layout)
        return pem


def rsa_key(algorithm: str = "RS256", bits: int = 2048) -> IssuerKey:
    """A fresh RSA key."""
    return IssuerKey(rsa.generate_private_key(public_exponent=65537, key_size=bits), algorithm)


def ec_key() -> IssuerKey:
    """A fresh key on the curve P-256."""
    return IssuerKey(ec.generate_private_key(ec.SECP256R1()), "ES256")


class OidcIssuer(HostedSite):
    """`keys` are those that it publishes; the first signs. `document` is added to its discovery document."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = [ec_key()]
        self.document: dict[str, Any] = {}
        self.published: dict[str, Any] | None = None
        """In place of its keys, if it is to publish something else."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """See `HostedSite`."""
        return [web.get("/.well-known/openid-configuration", self._discover), web.get("/keys", self._keys)]

    def rotate(self) -> None:
        """A fresh key in place of the old ones."""
        self.keys = [ec_key()]

    def token(self, *, key: IssuerKey | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A signed token: good for five minutes, issued by us, for `weft`, unless the claims say otherwise; one that is
        None is left out.
        """
        now = int(time.time())
        usual = {"iss": self.url, "aud": "weft", "sub": "ada", "iat": now, "exp": now + 300}
        content = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        key = key or self.keys[0]
        return jwt.encode(content, key.private, algorithm=key.algorithm, headers={"kid": key.id, **(header or {})})

    async def _discover(self, request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.document})

    async def _keys(self, request: web.Request) -> web.Response:
        return web.json_response(self.published or {"keys": [key.published for key in self.keys]})
