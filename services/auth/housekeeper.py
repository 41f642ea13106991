"""What auth does by itself, from time to time: writes uses of keys, rotates signing keys and removes old ones."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from services.auth.signing_keys import SigningKeyStore
from services.auth.uses import KeyUses
from services.core.errors import ServiceError

log = logging.getLogger(__name__)

_EVERY: Final = 30.0
"""Seconds. With the age of routers' caches, 30 s, a key's last use is known to within a minute."""


class Housekeeper:
    """Does what is due. `signing_key_life` and `token_life` are in seconds."""

    def __init__(
        self,
        signing_keys: SigningKeyStore,
        uses: KeyUses,
        *,
        signing_key_life: float,
        token_life: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signing_keys = signing_keys
        self._uses = uses
        self._signing_key_life = signing_key_life
        self._token_life = token_life
        self._clock = clock

    async def run(self) -> None:
        """Does what is due until cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            await self.tidy()

    async def tidy(self) -> None:
        """Does what is due now; what the database does not allow now is done the next time."""
        await self._uses.write()
        try:
            await self.rotate()
            removed = await self._signing_keys.remove_old(self._clock(), token_life=self._token_life)
            if removed:
                log.info("%d signing keys verify nothing any more and are removed", removed)
        except ServiceError as error:
            log.warning("signing keys are looked after later: %s", error)

    async def rotate(self) -> None:
        """Makes a signing key if there is none, or it is due. Raises AUTH_UNAVAILABLE."""
        fresh = await self._signing_keys.rotate(self._clock(), life=self._signing_key_life)
        if fresh is not None:
            log.info("session tokens are signed with a fresh key", extra={"key": fresh.id})
