"""When each key was last used: noted in memory, written in batches, so that no caller waits for it."""

from __future__ import annotations

import logging

from services.auth.store import KeyStore
from services.core.errors import ServiceError

log = logging.getLogger(__name__)


class KeyUses:
    """Notes uses. As many entries as keys that were used since the last write."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._noted: dict[str, float] = {}

    def note(self, key: str, now: float) -> None:
        """A key, by its id, was shown and is good."""
        self._noted[key] = now

    async def write(self) -> None:
        """Writes what was noted; what the database does not take now is written the next time."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        try:
            await self._store.touch(noted)
        except ServiceError as error:
            log.warning("when keys were last used is written later: %s", error)
            self._noted = {**noted, **self._noted}
