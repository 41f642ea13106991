"""What auth's RPCs have in common: they stand in several files, and are one servicer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from services.auth.denials import DenialStore
from services.auth.enrolments import EnrolmentStore
from services.auth.issuer import Issuer
from services.auth.judge import Judge
from services.auth.revocation_hub import RevocationHub
from services.auth.seen import SeenPrincipals
from services.auth.signing_keys import SigningKeyStore
from services.auth.store import KeyStore
from services.core.access import MeshPolicy
from services.core.errors import Reason, ServiceError
from services.core.principal import is_principal

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What auth is made of. `clock` gives seconds since 1970."""

    keys: KeyStore
    signing_keys: SigningKeyStore
    enrolments: EnrolmentStore
    denials: DenialStore
    revocations: RevocationHub
    judge: Judge
    issuer: Issuer
    mesh: MeshPolicy
    seen: SeenPrincipals
    clock: Callable[[], float] = time.time


class Rpcs:
    """Some of auth's RPCs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts


def check_principal(name: str, *, param: str = "principal") -> None:
    """Raises ARGUMENT_INVALID unless it is the name of a principal."""
    if not is_principal(name):
        message = f"'{param}' must look like 'users/{{user}}', 'services/{{service}}' or 'workers/{{worker}}'."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param=param)
