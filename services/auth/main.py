"""Auth, put together."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from weft.auth.v1 import auth_pb2_grpc

from services.auth import tokens
from services.auth.bootstrap import ensure_keys
from services.auth.config import AuthConfig
from services.auth.judge import Judge
from services.auth.servicer import ACCESS, SERVICE, AuthServicer
from services.auth.store import KeyStore
from services.core.errors import Reason, ServiceError
from services.rpc.boundary import Boundary
from services.rpc.server import GrpcServer
from services.runtime.database import open_database
from services.runtime.process import Process

log = logging.getLogger(__name__)

_RETRY: Final = 1.0


async def serve(config: AuthConfig, process: Process) -> None:
    """Runs auth until it is asked to stop."""
    store = KeyStore(open_database(config.database, process.home / "auth.db", setting="auth.database"))
    try:
        await _reach(store, process.stopping)
        await ensure_keys(config.bootstrap_keys, store, process.home)
        judge = Judge(store)
        servicer = AuthServicer(
            store,
            judge,
            await _signing_keys(store),
            max_age=config.max_age_s,
            token_life=config.session_token_life_s,
        )
        server = GrpcServer(
            config.address,
            Boundary(ACCESS, judge),
            (SERVICE,),
            (lambda grpc: auth_pb2_grpc.add_AuthServiceServicer_to_server(servicer, grpc),),
        )
        await server.start()
        try:
            await server.set_ready(True)
            process.ready("auth", server.address)
            await process.stopping.wait()
        finally:
            await server.stop(process.grace)
    finally:
        await store.close()


async def _reach(store: KeyStore, stopping: asyncio.Event) -> None:
    """Waits for a database that is not there yet: after a power cut, it may be the slower of the two to start."""
    while not stopping.is_set():
        try:
            await store.start()
            return
        except ServiceError as error:
            if error.reason is not Reason.AUTH_UNAVAILABLE:
                raise
            log.warning("%s (%s)", error, error.__cause__)
        await asyncio.sleep(_RETRY)


async def _signing_keys(store: KeyStore) -> list[tokens.SigningKey]:
    """Those of the store; a first one is made if there is none."""
    if not await store.signing_keys():
        await store.add_signing_key(tokens.new_signing_key(), time.time())
    return await store.signing_keys()
