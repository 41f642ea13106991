"""Follows auth's revocations, so that what is kept of its answers is forgotten as soon as it is no longer true."""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from collections.abc import Callable
from typing import Final, NamedTuple

import grpc
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.core.errors import Reason
from services.rpc.authenticator import CachedAuthenticator
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error

log = logging.getLogger(__name__)

FIRST_BACKOFF: Final = 0.1
LONGEST_BACKOFF: Final = 2.0
SILENCE: Final = 15.0
"""Seconds without a message after which auth is taken for dead; it sends one every five at least."""


class RevocationKind(enum.Enum):
    """What is good no longer; by the names of `weft.auth.v1.Revocation`, and EVERYTHING where auth cannot tell."""

    KEY = "key"
    PRINCIPAL = "principal"
    START = "start"
    CHANGED = "changed"
    EVERYTHING = "everything"


class Revocation(NamedTuple):
    """Something that is good no longer: `keys/{key}`, the name of a principal, or the name of a start. CHANGED is of a
    key that expires sooner, or a principal that is denied no longer. Principals are named as by `denied_as`.
    """

    kind: RevocationKind
    name: str = ""


EVERYTHING: Final = Revocation(RevocationKind.EVERYTHING)
"""Whatever is kept is to be forgotten; what was revoked of late follows."""


def revocation_to_proto(revocation: Revocation) -> auth_pb2.Revocation:
    """The revocation as auth tells it."""
    proto = auth_pb2.Revocation()
    setattr(proto, revocation.kind.value, revocation.name)
    return proto


def revocation_from_proto(proto: auth_pb2.Revocation) -> Revocation:
    """The revocation that auth told. One of a kind that we do not know, from a newer auth, may be of anything."""
    kind = proto.WhichOneof("kind")
    return Revocation(RevocationKind(kind), getattr(proto, kind)) if kind is not None else EVERYTHING


def forgetting(principals: CachedAuthenticator) -> Callable[[Revocation], None]:
    """Makes a cache of principals forget what is revoked."""

    def forget(revocation: Revocation) -> None:
        match revocation.kind:
            case RevocationKind.KEY:
                principals.forget_key(revocation.name)
            case RevocationKind.PRINCIPAL | RevocationKind.CHANGED:
                principals.forget_principal(revocation.name)
            case RevocationKind.EVERYTHING:
                principals.forget_all()
            case RevocationKind.START:  # of an enrolment, of which no principal comes
                pass

    return forget


class RevocationWatcher:
    """Hands each revocation to `forgotten`, in order, and EVERYTHING when it cannot be told what was missed.

    While auth is away, what is kept ages as it always does. `service_key` is asked at each attempt, so that a rotated
    key is taken up; it may raise OSError.
    """

    def __init__(
        self,
        auth: auth_pb2_grpc.AuthServiceStub,
        service_key: Callable[[], str],
        forgotten: Callable[[Revocation], None],
        *,
        silence: float = SILENCE,
    ) -> None:
        self.connected = asyncio.Event()
        self._auth = auth
        self._service_key = service_key
        self._forgotten = forgotten
        self._silence = silence
        self._revision = 0
        self._backoff = FIRST_BACKOFF
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="revocation watcher")

    async def close(self) -> None:
        """Ends the watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        said = ""
        while True:
            try:
                await self._watch()
                problem = "it ended the stream"
            except TimeoutError:
                problem = f"no message came for {self._silence:g} s"
            except grpc.RpcError as error:
                problem = from_rpc_error(error, unavailable=Reason.AUTH_UNAVAILABLE).message
            except OSError as error:  # no key to show yet
                problem = str(error)
            if self.connected.is_set() or problem != said:  # once, not at each of many attempts
                log.warning("revocations are not told at present, and what is known of callers ages: %s", problem)
                said = problem
            self.connected.clear()
            await asyncio.sleep(self._backoff * random.uniform(0.5, 1.0))
            self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)

    async def _watch(self) -> None:
        request = auth_pb2.WatchRevocationsRequest(revision=self._revision)
        stream = self._auth.WatchRevocations(request, metadata=bearer(self._service_key()))
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    message = await stream.read()
                if not isinstance(message, auth_pb2.WatchRevocationsResponse):
                    return
                self._take(message)
        finally:
            stream.cancel()

    def _take(self, message: auth_pb2.WatchRevocationsResponse) -> None:
        if message.reset or not self._revision:
            # The first time too: what came before it was kept while nobody watched.
            self._forgotten(EVERYTHING)
        for one in message.revocations:
            self._forgotten(revocation_from_proto(one))
        self._revision = message.revision
        if not self.connected.is_set():
            self.connected.set()
            self._backoff = FIRST_BACKOFF
            log.info("following auth's revocations")
