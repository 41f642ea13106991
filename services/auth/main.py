"""Auth, put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any, Final

from weft.auth.v1 import auth_pb2_grpc
from weft.third_party.envoy.service.auth.v3 import external_auth_pb2_grpc
from weft.usage.v1 import usage_pb2_grpc

from services.auth import ext_authz
from services.auth.bootstrap import ensure_keys
from services.auth.config import AuthConfig
from services.auth.denials import DenialStore
from services.auth.enrolments import EnrolmentStore
from services.auth.housekeeper import Housekeeper
from services.auth.identities import open_identities
from services.auth.issuer import Issuer
from services.auth.judge import Judge
from services.auth.metrics import show_auth
from services.auth.policy_config import mesh_policy
from services.auth.retention import keep_pruning
from services.auth.revocation_hub import RevocationHub
from services.auth.revocations import RevocationStore
from services.auth.rpcs import Parts
from services.auth.seen import SeenPrincipals
from services.auth.servicer import ACCESS, SERVICE, AuthServicer
from services.auth.signing_keys import SigningKeyStore
from services.auth.store import KeyStore
from services.auth.usage import servicer as usage_servicer
from services.auth.usage.running import keeping_usage
from services.auth.uses import KeyUses
from services.core.errors import Reason, ServiceError
from services.rpc.boundary import Boundary
from services.rpc.server import GrpcServer
from services.rpc.traced import traces_of
from services.runtime.auditor import open_auditor
from services.runtime.database import open_database
from services.runtime.process import Process
from services.runtime.service_metrics import show_service
from services.runtime.store_metrics import show_store

log = logging.getLogger(__name__)

_RETRY: Final = 1.0


async def serve(config: AuthConfig, process: Process) -> None:
    """Runs auth until it is asked to stop."""
    wire = process.tls.wire("auth", process.home)
    engine = open_database(config.database, process.home / "auth.db", setting="auth.database")
    store, signing_keys, enrolments = KeyStore(engine), SigningKeyStore(engine), EnrolmentStore(engine)
    denials, revocations, uses = DenialStore(engine), RevocationStore(engine), KeyUses(store)
    hub, seen = RevocationHub(revocations), SeenPrincipals(engine)
    token_life = config.session_token_life_s
    housekeeper = Housekeeper(signing_keys, uses, signing_key_life=config.signing_key_life_s, token_life=token_life)
    stack = contextlib.AsyncExitStack()
    try:
        if not await _reach(store, process.stopping):
            return
        await revocations.start(time.time())
        await ensure_keys(config.bootstrap_keys, store, process.home)
        await housekeeper.rotate()
        mesh = mesh_policy(config.policy, config.quotas)
        identities = open_identities(config.globus, config.issuers, mesh, home=process.home, max_age=config.max_age_s)
        judgements = show_auth(process.metrics, identities, hub)
        judge = Judge(
            store,
            denials,
            uses,
            max_age=config.max_age_s,
            certificates=config.certificates,
            identities=identities,
            mesh=mesh,
            judgements=judgements,
        )
        issuer = Issuer(store, signing_keys, enrolments, denials, judge, token_life=token_life)
        parts = Parts(
            keys=store,
            signing_keys=signing_keys,
            enrolments=enrolments,
            denials=denials,
            revocations=hub,
            judge=judge,
            issuer=issuer,
            mesh=mesh,
            seen=seen,
        )
        servicer = AuthServicer(parts)
        usage = await stack.enter_async_context(keeping_usage(config.usage, config.database, process.home))
        auditor = open_auditor(process.home, "auth")
        envoy = ext_authz.ExtAuthzServicer(judge, process.tls.trust(), auditor)
        server = GrpcServer(
            config.address,
            Boundary(
                {**ACCESS, **usage_servicer.ACCESS, **ext_authz.ACCESS},
                judge,
                wire.peers(judge.authenticate_peer),
                auditor,
                traces_of(process.tracer, "auth"),
            ),
            (SERVICE, usage_servicer.SERVICE, ext_authz.SERVICE),
            (
                lambda grpc: auth_pb2_grpc.add_AuthServiceServicer_to_server(servicer, grpc),
                lambda grpc: usage_pb2_grpc.add_UsageServiceServicer_to_server(usage, grpc),
                lambda grpc: external_auth_pb2_grpc.add_AuthorizationServicer_to_server(envoy, grpc),
            ),
            credentials=wire.credentials,
            meter=show_service(process.metrics, "auth", auditor.log),
        )
        show_store(process.metrics, "auth", engine, Reason.AUTH_UNAVAILABLE)
        await server.start()
        pruning = keep_pruning(seen, "principals", config.principals_retention_days)
        tasks = [asyncio.ensure_future(work) for work in (hub.run(), housekeeper.run(), seen.run(), pruning)]
        try:
            await server.set_ready(True)
            process.ready("auth", server.address)
            await _until(process.stopping, tasks)
        finally:
            ends = time.monotonic() + process.grace
            await server.leave(process.grace)
            hub.close()
            await server.stop(max(1.0, ends - time.monotonic()))
            await auditor.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await uses.write()
            await seen.write()
            await identities.close()
    finally:
        await stack.aclose()
        await store.close()


async def _until(stopping: asyncio.Event, tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Waits until auth is to stop. Raises what one of the tasks failed of: without an end to auth, nobody would miss
    revocations that are told no more.
    """
    stopped: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
    try:
        done, _ = await asyncio.wait((stopped, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        stopped.cancel()


async def _reach(store: KeyStore, stopping: asyncio.Event) -> bool:
    """Waits for a database that is not there yet: after a power cut, it may be the slower of the two to start. False
    if auth is to stop before that.
    """
    said = ""
    while not stopping.is_set():
        try:
            await store.start()
            return True
        except ServiceError as error:
            if error.reason is not Reason.AUTH_UNAVAILABLE:
                raise
            if said != (said := str(error.__cause__)):
                log.warning("%s (%s)", error, said)
        try:
            async with asyncio.timeout(_RETRY):
                await stopping.wait()
        except TimeoutError:
            continue
    return False
