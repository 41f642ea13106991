"""Asks auth whose a credential is, and remembers the answer for as long as auth allows."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar

import grpc
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.core.principal import Principal, denied_as
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error
from services.rpc.principal import principal_from_proto

log = logging.getLogger(__name__)

_Value = TypeVar("_Value")
_Kind = Literal["credential", "spiffe_id"]
"""What is shown; by the names of AuthenticateRequest's fields."""
_REFUSALS = (
    Reason.CREDENTIAL_INVALID,
    Reason.CREDENTIAL_EXPIRED,
    Reason.IDENTITY_FORBIDDEN,
    Reason.SESSION_INSUFFICIENT,
)

OWN_CREDENTIAL: Final = "authorization"
"""The `param` of auth's error when it refuses the key of whoever asks, not the credential that is asked about. Without
it, a wrong service key would make every caller's key look wrong.
"""


_ANYBODY: Final = "*"


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    max_age: float
    asked_at: float
    usable_until: float  # while auth is away

    @property
    def refresh_at(self) -> float:
        return self.asked_at + self.max_age / 2

    @property
    def expires_at(self) -> float:
        return min(self.asked_at + self.max_age, self.usable_until)


class CachedAuthenticator:
    """An `Authenticator` that answers from memory once warm.

    A principal is asked for anew, in the background, after half of the time that auth allows, so that a caller who
    stays never waits; of others, at most `waiting` are asked for at once: of more, auth would answer none in time, nor
    whether those who are known still are. While auth is away, callers that are known stay known for `stale_for`
    seconds. Refusals are remembered apart and shortly, so that one wrong key is not asked about again and again, and
    many push out no good one. Credentials are kept as hashes only.
    """

    def __init__(
        self,
        auth: auth_pb2_grpc.AuthServiceStub,
        service_key: Callable[[], str],
        *,
        capacity: int = 10_000,
        waiting: int = 512,
        refused_for: float = 5.0,
        stale_for: float = 600.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._auth = auth
        self._service_key = service_key
        self._capacity = capacity
        self._waiting = waiting
        self._refused_for = refused_for
        self._stale_for = stale_for
        self._timeout = timeout
        self._clock = clock
        self._wall_clock = wall_clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[ServiceError, float]] = OrderedDict()
        self._lookups: dict[bytes, asyncio.Task[Principal]] = {}
        self._forgotten: dict[bytes, set[str]] = {}
        self.hits = 0
        self.misses = 0
        """How often it knew, and how often somebody had to wait for auth, or for a refusal that was remembered."""

    def peek(self, credential: str) -> Principal | None:
        """The principal if it is known and fresh, without waiting."""
        return self._peek(_digest(credential), "credential", credential)

    async def authenticate(self, credential: str | None) -> Principal:
        """Raises CREDENTIAL_MISSING, CREDENTIAL_INVALID, CREDENTIAL_EXPIRED or AUTH_UNAVAILABLE."""
        if credential is None:
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        return await self._authenticate(_digest(credential), "credential", credential)

    async def authenticate_peer(self, spiffe_id: str) -> Principal:
        """Whose a verified certificate's SPIFFE id is. Raises IDENTITY_FORBIDDEN or AUTH_UNAVAILABLE."""
        # Longer than any credential's, so that nobody becomes a peer by a credential that reads like its id.
        return await self._authenticate(b"peer" + _digest(spiffe_id), "spiffe_id", spiffe_id)

    def _peek(self, digest: bytes, kind: _Kind, shown: str) -> Principal | None:
        known = self._known.get(digest)
        if known is None:
            return None
        now = self._clock()
        if now >= known.expires_at:
            return None
        if now >= known.refresh_at and digest not in self._lookups:
            self._look_up(digest, kind, shown)
        self.hits += 1
        return known.principal

    async def _authenticate(self, digest: bytes, kind: _Kind, shown: str) -> Principal:
        if (principal := self._peek(digest, kind, shown)) is not None:
            return principal
        self.misses += 1
        if (refusal := self._refused.get(digest)) is not None and self._clock() < refusal[1]:
            error = refusal[0]
            raise ServiceError(error.reason, error.message, principal=error.principal)
        lookup = self._lookups.get(digest)
        if lookup is None:
            if len(self._lookups) >= self._waiting:
                message = "Too many keys wait to be judged; try again shortly."
                raise ServiceError(Reason.OVERLOADED, message, retry_after=1.0)
            lookup = self._look_up(digest, kind, shown)
        # Shielded: the lookup is shared, and one caller who leaves must not end it for the others.
        return await asyncio.shield(lookup)

    def forget_key(self, key: str) -> None:
        """`keys/{key}` is revoked."""
        self._forget(key)

    def forget_principal(self, name: str) -> None:
        """Something else is true of the principal than before, by whatever credential."""
        self._forget(name)
        self._refused.clear()  # of whom they speak nobody knows, and they would be over in seconds

    def forget_all(self) -> None:
        """What is true now is not known."""
        self._known.clear()
        self._refused.clear()
        for missed in self._forgotten.values():
            missed.add(_ANYBODY)

    def _forget(self, name: str) -> None:
        for digest in [digest for digest, known in self._known.items() if name in _names(known.principal)]:
            del self._known[digest]
        for missed in self._forgotten.values():
            missed.add(name)

    async def close(self) -> None:
        """Ends what is under way."""
        for lookup in self._lookups.values():
            lookup.cancel()
        await asyncio.gather(*self._lookups.values(), return_exceptions=True)

    def _look_up(self, digest: bytes, kind: _Kind, shown: str) -> asyncio.Task[Principal]:
        request = auth_pb2.AuthenticateRequest()
        setattr(request, kind, shown)
        self._forgotten[digest] = set()
        task = asyncio.get_running_loop().create_task(self._ask(digest, request))
        self._lookups[digest] = task
        task.add_done_callback(lambda done: self._looked_up(digest, done))
        return task

    def _looked_up(self, digest: bytes, task: asyncio.Task[Principal]) -> None:
        del self._lookups[digest], self._forgotten[digest]
        if not task.cancelled():
            task.exception()  # A background refresh has no one to raise to; the next caller asks again.

    async def _ask(self, digest: bytes, request: auth_pb2.AuthenticateRequest) -> Principal:
        asked_at = self._clock()  # not when the answer comes: a revocation may have come just after it was given
        try:
            answer = await self._auth.Authenticate(
                request, timeout=self._timeout, metadata=bearer(self._service_key()), wait_for_ready=False
            )
        except grpc.RpcError as error:
            return self._without_answer(digest, from_rpc_error(error, unavailable=Reason.AUTH_UNAVAILABLE))
        except OSError as error:
            log.warning("our own key cannot be read: %s", error)
            return self._without_answer(digest, ServiceError(Reason.AUTH_UNAVAILABLE))
        max_age = answer.max_age.ToMilliseconds() / 1000
        usable_for = self._stale_for
        if answer.HasField("expire_time"):
            usable_for = min(usable_for, answer.expire_time.ToMilliseconds() / 1000 - self._wall_clock())
        known = _Known(principal_from_proto(answer.principal), max_age, asked_at, asked_at + usable_for)
        missed = self._forgotten[digest]
        if missed and not missed.isdisjoint((*_names(known.principal), _ANYBODY)):
            # It was forgotten while we asked, and the answer may be from before: kept, it would outlive its revocation.
            missed.clear()
            return await self._ask(digest, request)
        _remember(self._known, digest, known, self._capacity)
        return known.principal

    def _without_answer(self, digest: bytes, error: ServiceError) -> Principal:
        now = self._clock()
        if error.reason in _REFUSALS and error.param != OWN_CREDENTIAL:
            self._known.pop(digest, None)
            if not self._forgotten[digest]:  # else it may be from before an admission
                _remember(self._refused, digest, (error, now + self._refused_for), self._capacity)
            raise error
        known = self._known.get(digest)
        if known is not None and now < known.usable_until:
            # As if auth had said so again: else every call would wait for auth as long as it is away.
            self._known[digest] = replace(known, asked_at=now)
            return known.principal
        if error.reason is Reason.AUTH_UNAVAILABLE:
            raise error
        # Our own service key was refused, or auth failed: nothing that the caller's credential is to blame for.
        log.error("auth does not judge credentials for us: %s", error)
        raise ServiceError(Reason.AUTH_UNAVAILABLE)


def _names(principal: Principal) -> tuple[str, str]:
    """By what it may be forgotten: itself, and the key that proves it."""
    return denied_as(principal.name), principal.identity.subject


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode()).digest()


def _remember(memory: OrderedDict[bytes, _Value], digest: bytes, value: _Value, capacity: int) -> None:
    memory[digest] = value
    memory.move_to_end(digest)
    if len(memory) > capacity:
        memory.popitem(last=False)
