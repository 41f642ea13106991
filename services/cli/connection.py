"""Finds a running mesh, and speaks to its services."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

import grpc
import msgspec

from services.cli.failures import CommandError
from services.cli.globus_login import fresh_token
from services.cli.login_config import service_of
from services.cli.login_store import LoginStore, login_folder
from services.core.errors import Reason, ServiceError
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error
from services.rpc.wire import Wire
from services.runtime.config import Config
from services.runtime.readiness import running
from services.runtime.tls import TlsConfig

TIMEOUT: Final = 10.0
"""Seconds that a command waits for one answer."""

Service = Literal["auth", "registry", "router", "facade", "launcher"]

UNAVAILABLE: Final[Mapping[str, Reason]] = {
    "auth": Reason.AUTH_UNAVAILABLE,
    "registry": Reason.REGISTRY_UNAVAILABLE,
    "router": Reason.ROUTER_UNAVAILABLE,
    "launcher": Reason.LAUNCHER_UNAVAILABLE,
}


_START_MESH: Final = "start a mesh with 'weft up', or look with 'weft doctor'"
_START: Final[Mapping[str, str]] = {
    "launcher": "start it with 'weft serve launcher', or a mesh with 'weft up --launcher'"
}


@dataclass(frozen=True, slots=True)
class Connection:
    """A channel to one service, and the metadata that every call on it carries."""

    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]
    timeout: float = TIMEOUT


def address_of(config: Config, service: Service) -> str:
    """Where a service is: as it said itself if it runs in this home, else as configured. `host:port`."""
    if (ready := running(config.home, service)) is not None:
        return ready.address
    section = config.sections[service]
    return f"{section.host}:{section.port}" if service == "facade" else str(section.address)


def facade_url(config: Config) -> str:
    """The facade's base, before `/v1`."""
    scheme = "https" if config.sections["facade"].tls_certificate_file else "http"
    return f"{scheme}://{address_of(config, 'facade')}"


def wire_of(config: Config, service: Service) -> Wire:
    """How a service is dialled: as it said itself if it runs in this home, else as configured; by mutual TLS, with the
    certificate of `admin`. Raises ARGUMENT_INVALID if that is no good.
    """
    tls = config.section("tls", TlsConfig)
    ready = running(config.home, service)
    if ready is not None and not tls.directory:
        tls = msgspec.structs.replace(tls, directory=ready.tls)
    return tls.wire("admin", config.home)


def read_key(config: Config, environ: Mapping[str, str] = os.environ, *, elsewhere: bool = False) -> str:
    """The caller's credential: `$WEFT_API_KEY`, else the development key, else a token of the login. Blocks while that
    is refreshed. The development key administers the mesh of this home, and never goes `elsewhere`. Raises
    `CommandError` if there is none.
    """
    if key := environ.get("WEFT_API_KEY"):
        return key
    file = config.home / "dev.key"
    if not elsewhere:
        with contextlib.suppress(OSError):
            return file.read_text().strip()
    if service_of(environ) is not None or LoginStore(login_folder(environ)).read() is not None:
        return fresh_token(config, environ)
    raise CommandError(
        f"There is no API key: set WEFT_API_KEY, log in with 'weft login', or run 'weft up', which makes {file}."
    )


def _key_for(wire: Wire, config: Config) -> str:
    """The caller's API key; none where there is none, and the certificate tells who calls."""
    try:
        return read_key(config)
    except CommandError:
        if wire.secure is None:
            raise
        return ""


@asynccontextmanager
async def connect(config: Config, service: Service, *, key: str | None = None) -> AsyncIterator[Connection]:
    """A connection for the body of the `async with`, in which a failed RPC is raised as `ServiceError`.

    async with connect(config, "registry") as registry:
        stub = registry_pb2_grpc.RegistryServiceStub(registry.channel)
        await stub.ListClusters(request, metadata=registry.metadata, timeout=registry.timeout)
    """
    address, wire = address_of(config, service), wire_of(config, service)
    metadata = bearer(key if key is not None else await asyncio.to_thread(_key_for, wire, config))
    async with wire.dial(address, service) as channel:
        try:
            yield Connection(channel, metadata)
        except grpc.RpcError as error:
            raise _explain(error, service, address) from error


def _explain(error: grpc.RpcError, service: Service, address: str) -> ServiceError:
    explained = from_rpc_error(error, unavailable=UNAVAILABLE[service])
    if explained.message != explained.kind.sentence or explained.reason is not UNAVAILABLE[service]:
        return explained
    return ServiceError(
        explained.reason,
        f"The {service} at {address} cannot be reached; {_START.get(service, _START_MESH)}.",
    )
