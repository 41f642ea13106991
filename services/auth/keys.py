"""API keys: how they look, how they are stored, how one is judged; pure."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Principal

_KEY: Final = re.compile(r"weft_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NOBODY: Final = hashlib.sha256(b"no key has this hash").digest()


@dataclass(frozen=True, slots=True)
class Key:
    """What is stored of a key. Times are seconds since 1970; `successor` is the `keys/{key}` that takes its place. The
    secret part is stored only as a hash: 256 random bits need no salt, and no slow function either.
    """

    id: str
    digest: bytes = field(repr=False)
    principal: Principal
    display_name: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None
    successor: str = ""

    @property
    def prefix(self) -> str:
        """The first characters of the key, to tell it from others."""
        return f"weft_{self.id}"


def new_key() -> tuple[str, str, bytes]:
    """A key, its id, and the hash of its secret."""
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"weft_{identity}_{secret}", identity, digest(secret)


def split(credential: str) -> tuple[str, str] | None:
    """The id and the secret of something that looks like a key."""
    match = _KEY.fullmatch(credential)
    return (match[1], match[2]) if match else None


def digest(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def judge(key: Key | None, secret: str, now: float) -> Key:
    """The key, if the secret is its own and it stands. Raises CREDENTIAL_INVALID or CREDENTIAL_EXPIRED.

    An unknown id is compared as well, so that the time taken does not tell which ids exist.
    """
    same = hmac.compare_digest(key.digest if key is not None else _NOBODY, digest(secret))
    if not same:
        raise ServiceError(Reason.CREDENTIAL_INVALID)
    return standing(key, now)


def standing(key: Key | None, now: float) -> Key:
    """The key, if it is neither revoked nor expired. Raises CREDENTIAL_INVALID or CREDENTIAL_EXPIRED."""
    if key is None or key.revoked_at is not None:
        raise ServiceError(Reason.CREDENTIAL_INVALID)
    if key.expires_at is not None and now >= key.expires_at:
        raise ServiceError(Reason.CREDENTIAL_EXPIRED)
    return key


def identity_of(key: str, principal: str, groups: Iterable[str]) -> Identity:
    """The identity that a key, by its id, proves: as its maker says, nobody else vouches for it. The domain is what
    stands behind '@' in the principal's name.
    """
    return Identity(
        CredentialKind.KEY,
        f"keys/{key}",
        domain=principal.rpartition("@")[2] if "@" in principal else "",
        groups=frozenset(groups),
    )


def successor_of(old: Key, now: float, lifetime: float | None) -> tuple[str, Key]:
    """A key that takes the place of another, and what is stored of it: for the same principal, with the same scope,
    good for `lifetime` seconds. None means for as long as the old one was to live from its making.
    """
    if lifetime is None and old.expires_at is not None:
        lifetime = old.expires_at - old.created_at
    credential, identity, hashed = new_key()
    whose = old.principal
    principal = replace(whose, identity=identity_of(identity, whose.name, whose.identity.groups))
    expires_at = None if lifetime is None else now + lifetime
    return credential, Key(identity, hashed, principal, old.display_name, now, expires_at)


def rotation_refusal(key: Key | None, identity: str) -> ServiceError:
    """Why a key was not rotated, and what to do."""
    name = f"keys/{identity}"
    if key is None:
        return ServiceError(Reason.RESOURCE_NOT_FOUND, f"There is no '{name}'.", param="name")
    if key.revoked_at is not None:
        why = "was revoked; make a new key with 'weft keys create'"
    elif key.successor:
        why = f"was rotated already; its successor is '{key.successor}', which may be rotated"
    else:
        why = "has expired; make a new key with 'weft keys create'"
    return ServiceError(Reason.RESOURCE_CHANGED, f"'{name}' {why}.", param="name")
