"""Judges credentials by the store: auth's own `Authenticator`, and what it tells others."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.auth.keys import Key, judge, split
from services.auth.store import KeyStore
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal
from services.rpc.authenticator import OWN_CREDENTIAL


class Judge:
    """Tells whose a credential is."""

    def __init__(self, store: KeyStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    async def authenticate(self, credential: str | None) -> Principal:
        """See `services.rpc.boundary.Authenticator`."""
        if credential is None:
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        try:
            return (await self.look_up(credential)).principal
        except ServiceError as error:
            # Told apart from a refusal of the credential inside a request, which is somebody else's.
            raise ServiceError(error.reason, error.message, param=OWN_CREDENTIAL) from error

    async def look_up(self, credential: str) -> Key:
        """The key, if it is good. Raises CREDENTIAL_INVALID, CREDENTIAL_EXPIRED or AUTH_UNAVAILABLE."""
        parts = split(credential)
        # Something that is no key takes the same way as an unknown one.
        identity, secret = parts if parts is not None else ("", credential)
        key = await self._store.find(identity)
        return judge(key, secret, self._clock())
