"""The registry, put together: the database, the hub that tells of changes, the gRPC server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Final

from weft.auth.v1 import auth_pb2_grpc
from weft.registry.v1 import registry_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.registry.config import RegistryConfig
from services.registry.metrics import show_hub
from services.registry.seed import plant
from services.registry.servicer import ACCESS, SERVICE, RegistryServicer
from services.registry.store import Store
from services.registry.watch import Hub
from services.rpc.authenticator import CachedAuthenticator
from services.rpc.boundary import Boundary
from services.rpc.revocations import RevocationWatcher, forgetting
from services.rpc.server import GrpcServer
from services.rpc.traced import traces_of
from services.runtime.auditor import open_auditor
from services.runtime.database import open_database
from services.runtime.process import Process
from services.runtime.service_metrics import show_service
from services.runtime.store_metrics import show_store

log = logging.getLogger(__name__)

RETRY: Final = 1.0
"""Seconds between two attempts to reach a database that does not answer at the start."""


async def serve(config: RegistryConfig, process: Process) -> None:
    """Runs the registry until `process.stopping`. Raises `ServiceError` or `AddressInUseError` if it cannot begin, with
    a sentence that says why.
    """
    engine = open_database(config.database, process.home / "registry.db", setting="registry.database")
    store = Store(engine)
    hub = Hub(store)
    store.on_commit(hub.wake)
    wire = process.tls.wire("registry", process.home)
    service_key = wire.service_key(process.home / (config.service_key_file or "service.key"))
    async with wire.dial(config.auth_address, "auth") as auth:
        stub = auth_pb2_grpc.AuthServiceStub(auth)
        authenticator = CachedAuthenticator(stub, service_key)
        revocations = RevocationWatcher(stub, service_key, forgetting(authenticator))
        auditor = open_auditor(process.home, "registry")
        server = GrpcServer(
            config.address,
            Boundary(
                ACCESS,
                authenticator,
                wire.peers(authenticator.authenticate_peer),
                auditor,
                traces_of(process.tracer, "registry"),
            ),
            [SERVICE],
            [lambda grpc: registry_pb2_grpc.add_RegistryServiceServicer_to_server(RegistryServicer(store, hub), grpc)],
            credentials=wire.credentials,
            meter=show_service(process.metrics, "registry", auditor.log),
        )
        show_store(process.metrics, "registry", engine, Reason.REGISTRY_UNAVAILABLE)
        show_hub(process.metrics, hub)
        await server.start()
        revocations.start()
        try:
            await _until_stopping(_work(config, process, store, hub, server), process.stopping)
        finally:
            hub.close()
            await server.stop(process.grace)
            await auditor.close()
            await revocations.close()
            await authenticator.close()
            await store.close()


async def _work(config: RegistryConfig, process: Process, store: Store, hub: Hub, server: GrpcServer) -> None:
    await _open(store)
    await plant(config.seed, store)
    await hub.refresh()
    await server.set_ready(True)
    process.ready("registry", server.address)
    await hub.run()


async def _open(store: Store) -> None:
    """Waits for a database that is not there yet: after a power cut, it may be the slower of the two to start."""
    said = ""
    while True:
        try:
            return await store.start()
        except ServiceError as error:
            if said != (said := str(error.__cause__)):
                log.warning("%s (%s)", error, said)
        await asyncio.sleep(RETRY)


async def _until_stopping(work: Coroutine[None, None, None], stopping: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()  # It runs until cancelled; if it has ended it has failed, and this raises why.
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
