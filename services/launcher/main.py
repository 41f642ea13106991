"""The launcher, put together."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from weft.auth.v1 import auth_pb2_grpc
from weft.launcher.v1 import launcher_pb2_grpc

from services.core.catalogue import Catalogue
from services.core.errors import Reason, ServiceError
from services.launcher.board import Board
from services.launcher.bridge import Bridge
from services.launcher.bridge_calls import TaskSlots
from services.launcher.bridge_status import Statuses
from services.launcher.bridge_worker import BridgeParts
from services.launcher.carrier import Carrier
from services.launcher.config import LauncherConfig
from services.launcher.credentials import open_globus
from services.launcher.enrolment import Enrolment
from services.launcher.functions import Functions
from services.launcher.keeper import Keeper
from services.launcher.queues import Queues
from services.launcher.requests import Requests
from services.launcher.routers import Routers
from services.launcher.servicer import ACCESS, SERVICE, LauncherServicer
from services.launcher.start_trace import StartTraces
from services.launcher.store import Store
from services.launcher.tasks import TaskRunner
from services.rpc.authenticator import CachedAuthenticator
from services.rpc.boundary import Boundary
from services.rpc.catalogue import CatalogueWatcher
from services.rpc.revocations import RevocationWatcher, forgetting
from services.rpc.server import GrpcServer
from services.rpc.traced import traces_of
from services.rpc.wire import RouterWay
from services.runtime.auditor import open_auditor
from services.runtime.catalogue_metrics import catalogue_age
from services.runtime.database import open_database
from services.runtime.process import Process
from services.runtime.service_metrics import show_service
from services.runtime.store_metrics import show_store

log = logging.getLogger(__name__)

_RETRY: Final = 1.0
"""Seconds between two attempts to reach a database that does not answer at the start."""


async def serve(
    config: LauncherConfig, process: Process, open_tasks: Callable[[LauncherConfig], TaskRunner] = open_globus
) -> None:
    """Runs the launcher until `process.stopping`. Raises `ServiceError` or `AddressInUseError` if it cannot begin."""
    wire = process.tls.wire("launcher", process.home)
    if wire.secure is not None and not config.worker_routers:
        log.warning(
            "the routers demand certificates, which jobs do not have: open 'router.tls_address', and name it in "
            "'launcher.worker_routers' as https://HOST:PORT"
        )
    service_key = wire.service_key(Path(config.service_key_file or process.home / "service.key"))
    engine = open_database(config.database, process.home / "launcher.db", setting="launcher.database")
    store = Store(
        engine,
        holder=secrets.token_hex(8),
        lease_life=config.lease_life_s,
        clock=time.monotonic,
    )
    tasks = open_tasks(config)
    functions = Functions(tasks)
    queues = Queues(tasks, functions, age=config.queue_age_s)
    board = Board()

    def catalogue_changed(catalogue: Catalogue) -> None:
        bridge.see(catalogue)
        keeper.wake()

    registry = CatalogueWatcher(
        config.registry_address,
        service_key,
        changed=catalogue_changed,
        file=process.home / "launcher" / "catalogue.bin",
        wire=wire,
    )

    def catalogue() -> Catalogue:
        return registry.current or Catalogue()

    async with (
        wire.dial(config.auth_address, "auth") as auth_channel,
        Routers(config.router_addresses, service_key, wire=wire) as routers,
    ):
        auth = auth_pb2_grpc.AuthServiceStub(auth_channel)
        principals = CachedAuthenticator(auth, service_key)
        revocations = RevocationWatcher(auth, service_key, forgetting(principals))
        enrolment = Enrolment(auth, service_key)
        requests = Requests(catalogue, functions, enrolment, config)
        bridge = Bridge(
            BridgeParts(
                tasks=tasks,
                functions=functions,
                statuses=Statuses(tasks),
                enrolment=enrolment,
                catalogue=catalogue,
                routers=config.router_addresses,
                lifetime=config.queue_time_s,
                grace=process.grace,
                way=RouterWay(wire),
                slots=TaskSlots(tasks=config.task_slots, waiting=2 * config.task_slots),
                tracer=process.tracer,
            )
        )

        def carrier(happened: Callable[[], None]) -> Carrier:
            return Carrier(tasks, requests, enrolment, routers, queues, bridge, config, happened=happened)

        traces = None if process.tracer is None else StartTraces(process.tracer)
        keeper = Keeper(store, lambda: registry.current, routers, queues, board, config, carrier, traces=traces)
        servicer = LauncherServicer(store, board, queues, lambda: registry.current, keeper.wake)
        auditor = open_auditor(process.home, "launcher")
        server = GrpcServer(
            config.address,
            Boundary(
                ACCESS,
                principals,
                wire.peers(principals.authenticate_peer),
                auditor,
                traces_of(process.tracer, "launcher"),
            ),
            (SERVICE,),
            (lambda grpc: launcher_pb2_grpc.add_LauncherServiceServicer_to_server(servicer, grpc),),
            credentials=wire.credentials,
            meter=show_service(process.metrics, "launcher", auditor.log),
        )
        show_store(process.metrics, "launcher", engine, Reason.LAUNCHER_UNAVAILABLE)
        if process.metrics is not None:
            process.metrics.add(functools.partial(catalogue_age, "launcher", registry))
        await server.start()
        registry.start()
        revocations.start()

        async def work() -> None:
            await _open(store)
            await registry.wait_first()
            await server.set_ready(True)
            process.ready("launcher", server.address)
            async with asyncio.TaskGroup() as group:
                group.create_task(routers.watch(config.tick_s, keeper.wake))
                group.create_task(keeper.run())

        working = asyncio.ensure_future(work())
        stopping = asyncio.ensure_future(process.stopping.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()  # It runs until cancelled; if it has ended it has failed, and this raises why.
        finally:
            board.close()
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
            await keeper.close()
            await asyncio.gather(server.stop(process.grace), bridge.close())  # both take as long as open calls do
            await auditor.close()
            await queues.close()
            await tasks.close()
            await registry.close()
            await revocations.close()
            await principals.close()
            await store.close()


async def _open(store: Store) -> None:
    """Waits for a database that is not there yet: after a power cut, it may be the slower of the two to start."""
    said = ""
    while True:
        try:
            return await store.start()
        except ServiceError as error:
            if error.reason is not Reason.LAUNCHER_UNAVAILABLE:
                raise
            if said != (said := str(error.__cause__)):
                log.warning("%s (%s)", error, said)
        await asyncio.sleep(_RETRY)
