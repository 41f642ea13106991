"""Judges credentials, of whatever kind: auth's own `Authenticator`, and what it tells others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from services.auth.admission import admitted
from services.auth.certificates import CertificateRule, certificate_principal
from services.auth.denials import DenialStore
from services.auth.identities import Identities
from services.auth.judged import Judged
from services.auth.keys import judge, split
from services.auth.metrics import Judgements
from services.auth.store import KeyStore
from services.auth.uses import KeyUses
from services.core.access import MeshPolicy
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal
from services.rpc.authenticator import OWN_CREDENTIAL

NO_POLICY: Final = MeshPolicy()
OURS: Final = "weft_"
"""What every credential of Weft's own begins with: it is shown to nobody else."""


class Judge:
    """Tells whose a credential is, and what the mesh's policy gives them; notes the use of keys. `max_age`, in seconds,
    is how long what is told of a key may be kept. `judgements` counts them.
    """

    def __init__(
        self,
        store: KeyStore,
        denials: DenialStore,
        uses: KeyUses,
        *,
        max_age: float = 30.0,
        certificates: Sequence[CertificateRule] = (),
        identities: Identities | None = None,
        mesh: MeshPolicy = NO_POLICY,
        judgements: Judgements | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._denials = denials
        self._uses = uses
        self._certificates = certificates
        self._identities = identities
        self._mesh = mesh
        self._judgements = judgements
        self._max_age = max_age
        self._clock = clock

    async def authenticate(self, credential: str | None) -> Principal:
        """See `services.rpc.boundary.Authenticator`."""
        if credential is None:
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        try:
            return (await self.look_up(credential)).principal
        except ServiceError as error:
            raise _of_the_asker(error) from error

    async def authenticate_peer(self, spiffe_id: str) -> Principal:
        """As `authenticate`, for a certificate that this very server has verified."""
        try:
            return (await self.look_up_peer(spiffe_id)).principal
        except ServiceError as error:
            raise _of_the_asker(error) from error

    async def look_up_peer(self, spiffe_id: str) -> Judged:
        """Whose a verified certificate's SPIFFE id is. Raises IDENTITY_FORBIDDEN."""
        with self._counting("certificate"):
            principal = certificate_principal(self._certificates, spiffe_id)
            return await self._admitted(Judged(principal, None, self._max_age))

    async def look_up(self, credential: str) -> Judged:
        """Whose it is, if it is good and the mesh admits them. Raises CREDENTIAL_INVALID, CREDENTIAL_EXPIRED,
        IDENTITY_FORBIDDEN, SESSION_INSUFFICIENT or AUTH_UNAVAILABLE.
        """
        if self._identities is None or credential.startswith(OURS):
            with self._counting("key"):
                return await self._admitted(await self._look_up_key(credential))
        with self._counting("token"):
            return await self._admitted(await self._identities.look_up(credential))

    def _counting(self, kind: str) -> AbstractContextManager[None]:
        return nullcontext() if self._judgements is None else self._judgements.counting(kind)

    async def _admitted(self, judged: Judged) -> Judged:
        await self._denials.check(judged.principal.name)
        return admitted(self._mesh, judged, self._clock())

    async def _look_up_key(self, credential: str) -> Judged:
        parts = split(credential)
        # Something that is no key takes the same way as an unknown one.
        identity, secret = parts if parts is not None else ("", credential)
        now = self._clock()
        key = judge(await self._store.find(identity), secret, now)
        self._uses.note(key.id, now)
        left = self._max_age if key.expires_at is None else min(self._max_age, key.expires_at - now)
        return Judged(key.principal, key.expires_at, max(0.0, left), key)


def _of_the_asker(error: ServiceError) -> ServiceError:
    """Told apart from a refusal of the credential inside a request, which is somebody else's."""
    return ServiceError(error.reason, error.message, param=OWN_CREDENTIAL, principal=error.principal)
