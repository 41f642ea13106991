"""The router, put together."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weft.auth.v1 import auth_pb2_grpc
from weft.inference.v1 import inference_pb2_grpc
from weft.session.v1 import session_pb2_grpc

from services.core.catalogue import Catalogue
from services.router import inference_servicer, session_servicer
from services.router.audit import CallAudit
from services.router.backends.http import HttpEndpoints
from services.router.backends.session import Sessions
from services.router.bill import Accounting
from services.router.call_metrics import CallMetrics
from services.router.cold import ColdEndpoints
from services.router.config import RouterConfig
from services.router.dispatcher import Dispatcher
from services.router.faults import tell_fault
from services.router.first import StatusRoutes
from services.router.gateway import Gateway
from services.router.inference_servicer import InferenceServicer
from services.router.launcher import Launcher
from services.router.limits.making import make_limiter
from services.router.permits import Permits
from services.router.policies import least_outstanding
from services.router.queues import Queues, ask_launcher
from services.router.roster import Roster
from services.router.session_servicer import SessionServicer
from services.router.state_metrics import RouterState
from services.router.usage import Usage
from services.router.usage_log import CallRecord
from services.rpc.authenticator import CachedAuthenticator
from services.rpc.boundary import Boundary
from services.rpc.catalogue import CatalogueWatcher
from services.rpc.revocations import Revocation, RevocationWatcher, forgetting
from services.rpc.server import GrpcServer
from services.rpc.session_token import SessionTokenVerifier
from services.rpc.traced import traces_of
from services.runtime.auditor import open_auditor
from services.runtime.process import Process
from services.runtime.service_metrics import show_service

log = logging.getLogger(__name__)

_LAST_WORDS: Final = 4.0
"""Seconds, of what is left of the grace, in which RPCs send the rest of answers that have ended here: on a busy
machine, one second has cut some. Who watches health or reflection makes a stop last so long.
"""
_LAST_USAGE: Final = 3.0
"""Seconds that auth has, at the end, to take the last usage records; what is left waits on the disk."""

AGENT = f"weft-router/{importlib.metadata.version('weft')}"


@dataclass(frozen=True, slots=True)
class RunningRouter:
    """A router at work: what a facade in the same process needs of it."""

    gateway: Gateway
    ready: Callable[[], Awaitable[bool]]
    address: str


async def serve(config: RouterConfig, process: Process) -> None:
    """Runs the router until it is asked to stop."""
    async with running(config, process) as router:
        process.ready("router", router.address)
        await process.stopping.wait()


@contextlib.asynccontextmanager
async def running(config: RouterConfig, process: Process) -> AsyncIterator[RunningRouter]:
    """A router that serves in the body of the `async with`, and drains after it."""
    loop = asyncio.get_running_loop()
    wire = process.tls.wire("router", process.home)
    service_key = wire.service_key(Path(config.service_key_file or process.home / "service.key"))
    auth_channel = wire.dial(config.auth_address, "auth")
    auth = auth_pb2_grpc.AuthServiceStub(auth_channel)
    principals = CachedAuthenticator(auth, service_key, stale_for=config.stale_principals_s)
    tokens = SessionTokenVerifier(auth, service_key)

    settings = config.dispatch()
    roster = Roster(settle=config.settle_s)
    sessions = Sessions(roster, agent=AGENT, tracer=process.tracer)
    forget = forgetting(principals)

    def revoked(revocation: Revocation) -> None:
        forget(revocation)
        sessions.revoke(revocation)

    revocations = RevocationWatcher(auth, service_key, revoked)
    http_endpoints = HttpEndpoints(roster, settings.bounds)
    cold = ColdEndpoints()
    cold.changed = roster.state_changed
    launcher_channel = wire.dial(config.launcher_address, "launcher")
    launcher = Launcher(
        config.launcher_address, launcher_channel, service_key, roster, cold, name=_own_name(), wire=wire
    )
    queues = Queues(ask_launcher(launcher_channel, service_key))
    auditor = open_auditor(process.home, "router", config.audit_file)
    usage = Usage(config.usage, process.home, auth_channel, service_key)
    calls = None
    if process.metrics is not None:
        calls = CallMetrics(lambda: roster.index.by_route, lambda: (roster.catalogue or Catalogue()).endpoints)
    dispatcher = Dispatcher(
        roster,
        least_outstanding,
        settings,
        loop,
        tell_fault,
        CallAudit(auditor.log),
        cold,
        meter=calls,
    )
    permits = Permits(roster)
    status = StatusRoutes(roster, permits, cold, queues)
    limiter = make_limiter(config.limits, process.home, _own_name())
    accounting = Accounting(
        limiter, _recording(usage, calls), config.reckoning(), clamps=config.limits.on_excess == "clamp"
    )
    gateway = Gateway(
        principals,
        permits,
        dispatcher,
        status,
        accounting,
        max_calls=config.max_calls,
        refused=auditor.refuse_call,
        turned_away=calls.turned_away if calls is not None else None,
        tracer=process.tracer,
    )

    peers = wire.peers(principals.authenticate_peer)
    inference = InferenceServicer(gateway, roster, permits, config.mux_limits(), agent=AGENT, peers=peers)
    server = GrpcServer(
        config.address,
        Boundary(
            {**inference_servicer.ACCESS, **session_servicer.ACCESS},
            principals,
            peers,
            auditor,
            traces_of(process.tracer, "router"),
        ),
        (inference_servicer.SERVICE, session_servicer.SERVICE),
        (
            lambda server: inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server),
            lambda server: session_pb2_grpc.add_SessionServiceServicer_to_server(
                SessionServicer(sessions, roster, tokens, auth, service_key), server
            ),
        ),
        credentials=wire.credentials,
        tls=config.tls(process.home),
        meter=show_service(process.metrics, "router", auditor.log),
    )
    if server.tls_address:
        log.info("workers reach this router by TLS at %s", server.tls_address)

    def catalogue_changed(catalogue: Catalogue) -> None:
        http_endpoints.follow(catalogue)
        roster.set_catalogue(catalogue)
        launcher.catalogue_changed()

    registry = CatalogueWatcher(
        config.registry_address,
        service_key,
        changed=catalogue_changed,
        file=process.home / "router" / "catalogue.bin",
        wire=wire,
    )
    if process.metrics is not None and calls is not None:
        process.metrics.add(calls.families)
        state = RouterState(roster, sessions, gateway, permits, principals, registry, calls.route)
        process.metrics.add(state.families)
    await server.start()
    usage.start()
    limiter.start()
    registry.start()
    revocations.start()
    launcher.start()
    http_watch = loop.create_task(http_endpoints.watch())
    becoming_ready = loop.create_task(_become_ready(server, registry))
    try:
        yield RunningRouter(gateway, gateway.ready, server.address)
    finally:
        ends = loop.time() + process.grace
        becoming_ready.cancel()
        await server.leave(process.grace)
        grace = max(0.0, ends - loop.time())
        inference.drain(grace)
        sessions.drain(grace)
        await gateway.drain(grace)
        await gateway.close()
        await usage.finish()
        await limiter.close()
        await inference.end()
        sessions.end()
        await server.stop(grace=max(1.0, min(_LAST_WORDS, ends - loop.time())))
        http_watch.cancel()
        await asyncio.gather(becoming_ready, http_watch, return_exceptions=True)
        await registry.close()
        await revocations.close()
        await launcher.close()
        await queues.close()
        await launcher_channel.close()
        await http_endpoints.close()
        await usage.close(within=_LAST_USAGE)
        await principals.close()
        await auth_channel.close()
        await auditor.close()


def _recording(usage: Usage, calls: CallMetrics | None) -> Callable[[CallRecord], None]:
    """What takes the records of calls: usage, and where something is counted the metrics."""
    if calls is None:
        return usage.record

    def record(call: CallRecord) -> None:
        usage.record(call)
        calls.record(call)

    return record


def _own_name() -> str:
    """What the launcher knows this run of this router by."""
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


async def _become_ready(server: GrpcServer, registry: CatalogueWatcher) -> None:
    """Ready is whoever knows what exists; whether workers are there is each model's own affair."""
    await registry.wait_first()
    await server.set_ready(True)
