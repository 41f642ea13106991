"""The limiter that a configuration asks for."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from services.core.errors import Reason, ServiceError
from services.router.limits.config import LimitsConfig
from services.router.limits.limiter import Limiter
from services.router.limits.redis_store import RedisStore
from services.router.limits.shared import SharedSource
from services.router.limits.source import OwnSource


def make_limiter(config: LimitsConfig, home: Path, router: str) -> Limiter:
    """A limiter, not yet started; `router` is what the store knows this run of this router by.

    Raises ARGUMENT_INVALID if the password's file cannot be read. The store itself may come later.
    """
    clock = asyncio.get_running_loop().time
    if not config.store_url:
        return Limiter(OwnSource(), clock)
    try:
        password = config.password(home)
    except (OSError, UnicodeDecodeError) as error:
        key = "router.limits.store_password_file"
        message = f"'{key}', {config.store_password_file}, cannot be read: {error}."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param=key) from error
    share = config.when_store_is_away == "share"
    source = SharedSource(
        RedisStore(config.store_url, password),
        router,
        clock,
        share=share,
        routers=config.routers,
        offset=time.time() - clock(),
    )
    return Limiter(source, clock)
