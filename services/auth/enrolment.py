"""Enrolments: one start of a worker, admitted once; how its tokens look, and how one is judged; pure."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from services.core.errors import Reason, ServiceError

_TOKEN: Final = re.compile(r"weft_start_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NOBODY: Final = hashlib.sha256(b"no enrolment token has this hash").digest()


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What is known of one start. Times are seconds since 1970. `serves` is the one principal whom its worker serves;
    empty means that it is shared. `instance` is the one that was admitted, None as long as none was.
    """

    start: str
    endpoint: str
    serves: str
    expires_at: float
    instance: str | None = None
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """What is stored of a token. A start may have several, each time that it was asked for, and its one admission all
    the same.
    """

    id: str
    digest: bytes = field(repr=False)
    start: str


def new_token(start: str) -> tuple[str, EnrolmentToken]:
    """A token, and what is stored of it: of its 256 random bits the hash alone."""
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return f"weft_start_{identity}_{secret}", EnrolmentToken(identity, _digest(secret), start)


def split(credential: str) -> tuple[str, str] | None:
    """The id and the secret of something that looks like an enrolment token."""
    match = _TOKEN.fullmatch(credential)
    return (match[1], match[2]) if match else None


def check_secret(token: EnrolmentToken | None, secret: str) -> EnrolmentToken:
    """The token, if the secret is its own. Raises CREDENTIAL_INVALID.

    An unknown id is compared as well, so that the time taken does not tell which ids exist.
    """
    same = hmac.compare_digest(token.digest if token is not None else _NOBODY, _digest(secret))
    if not same or token is None:
        raise ServiceError(Reason.CREDENTIAL_INVALID, "The enrolment token is not one of ours.")
    return token


def refusal(enrolment: Enrolment | None, *, endpoint: str, instance: str, now: float) -> ServiceError:
    """Why an instance was not admitted."""
    if enrolment is None:
        return ServiceError(Reason.CREDENTIAL_INVALID, "The enrolment token is not one of ours.")
    if enrolment.endpoint != endpoint:
        message = f"This enrolment token is not for '{endpoint}'."
        return ServiceError(Reason.ACTION_FORBIDDEN, message, param="endpoint")
    if enrolment.revoked_at is not None:
        return ServiceError(Reason.ACTION_FORBIDDEN, f"The start '{enrolment.start}' was revoked; its worker must end.")
    if enrolment.instance not in (None, instance):
        message = f"The start '{enrolment.start}' has its worker already; an enrolment token admits one, once."
        return ServiceError(Reason.ACTION_FORBIDDEN, message, param="instance")
    if now >= enrolment.expires_at:
        return ServiceError(Reason.CREDENTIAL_EXPIRED, "The enrolment token has expired; its job waited for too long.")
    # It has changed since it was not admitted: whoever asks again hears what is true then.
    return ServiceError(Reason.RESOURCE_CHANGED, "The enrolment was changed at this moment; try again.")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
