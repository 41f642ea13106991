"""Session tokens: what a worker shows when it dials a router. JWTs (RFC 7519) signed with Ed25519 (RFC 8037)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.rpc.session_token import ALGORITHM, AUDIENCE, SessionClaims

_LOOKS: Final = "eyJ"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, and its id in the tokens' header."""

    id: str
    private: Ed25519PrivateKey

    @property
    def public_bytes(self) -> bytes:
        """The public key, 32 bytes."""
        return self.private.public_key().public_bytes_raw()


def new_signing_key() -> SigningKey:
    """A fresh key."""
    return SigningKey(secrets.token_hex(8), Ed25519PrivateKey.generate())


def to_bytes(key: SigningKey) -> bytes:
    """The private key as it is stored, 32 bytes."""
    return key.private.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )


def from_bytes(identity: str, raw: bytes) -> SigningKey:
    """A stored private key."""
    return SigningKey(identity, Ed25519PrivateKey.from_private_bytes(raw))


def looks_like_token(credential: str) -> bool:
    """Whether a credential can be a session token rather than a key."""
    return credential.startswith(_LOOKS)


def issue(key: SigningKey, claims: SessionClaims) -> str:
    """A token that says so. Its moment is in whole seconds."""
    content = {
        "sub": claims.principal,
        "aud": AUDIENCE,
        "exp": int(claims.expires_at),
        "endpoint": claims.endpoint,
        "instance": claims.instance,
        "key": claims.key,
        "start": claims.start,
        "serves": claims.serves,
        "jti": secrets.token_hex(8),
    }
    return jwt.encode(content, key.private, algorithm=ALGORITHM, headers={"kid": key.id})
