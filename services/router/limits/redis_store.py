"""The store that several routers share, by Redis's protocol: Redis 7, Valkey, or what speaks like them.

One script call a question, the server's clock as the only one. Keys begin with `weft:limits:`, and expire. A cluster
of Redis's is not supported, since one question concerns keys that it would keep apart.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLostError
from redis.exceptions import NoScriptError, RedisError

from services.router.limits.exchange import (
    LEASE_PART,
    QUIET,
    ROUTER_LIFE,
    Answer,
    Exchange,
    Grant,
    Lack,
    StoreAwayError,
)

PREFIX: Final = "weft:limits:"
TIMEOUT: Final = 1.0
"""Seconds for a round trip or a connection; whoever is not answered by then goes on without the store."""
_SCRIPT: Final = files("services.router.limits").joinpath("exchange.lua").read_text()
_DIGEST: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""How EVALSHA names it."""


class RedisStore:
    """See `QuotaStore`. The connection is made by the first question, and again when it was lost."""

    def __init__(
        self,
        url: str,
        password: str | None = None,
        *,
        prefix: str = PREFIX,
        quiet: float = QUIET,
        timeout: float = TIMEOUT,
    ) -> None:
        # Its own retries would ask anew what the server is slow to answer.
        self._redis: Redis = Redis.from_url(
            url,
            password=password,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
        )
        self._prefix = prefix
        self._quiet = quiet

    async def exchange(self, exchange: Exchange) -> Answer:
        """See `QuotaStore.exchange`."""
        arguments = (self._prefix, msgspec.json.encode(exchange), self._quiet, ROUTER_LIFE, LEASE_PART)
        try:
            try:
                return _answer(await self._ask(arguments))
            except ConnectionLostError:
                # A connection is lost when the server restarts. The same question may be asked again: a server that
                # has heard it passes it over by its number, and one that has begun anew by its epoch.
                return _answer(await self._ask(arguments))
        except (RedisError, OSError) as error:
            raise StoreAwayError(str(error) or type(error).__name__) from None
        except (IndexError, TypeError, ValueError, AttributeError) as error:
            raise StoreAwayError(f"its answer was not understood: {error}") from error

    async def close(self) -> None:
        """See `QuotaStore.close`."""
        await self._redis.aclose()

    async def _ask(self, arguments: tuple[Any, ...]) -> Any:
        try:
            return await self._redis.evalsha(_DIGEST, 0, *arguments)
        except NoScriptError:  # it was not run; from now on the server knows it
            return await self._redis.eval(_SCRIPT, 0, *arguments)


def _answer(raw: Any) -> Answer:
    epoch, now, routers, quiet, known, calls, grants = raw
    return Answer(
        epoch.decode(),
        int(now) / 1e6,
        int(routers),
        quiet / 1000,
        bool(known),
        [
            list(found) if granted else [Lack(hold, room, wait / 1000) for hold, room, wait in found]
            for granted, found in calls
        ],
        [Grant(*grant) for grant in grants],
    )
