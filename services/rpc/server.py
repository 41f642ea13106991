"""A gRPC server as every service runs one: boundary, health, reflection, ordered stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.rpc.balancers import Balancers, Health
from services.rpc.boundary import Boundary
from services.rpc.channel import SERVER_OPTIONS
from services.rpc.meter import RpcMeter
from services.rpc.server_tls import TlsListener

Register = Callable[[grpc.aio.Server], None]
"""Adds a servicer to a server."""


class AddressInUseError(Exception):
    """Something else listens on the address; the message says what to do."""


class GrpcServer:
    """Serves `services` (full names, for health and reflection) on one address, by mutual TLS if there are
    `credentials`, and on a second one if there is `tls`. Health is NOT_SERVING until `set_ready(True)`. A
    `meter` counts RPCs.

    Raises `AddressInUseError`, or ARGUMENT_INVALID for a certificate that cannot be shown.
    """

    def __init__(
        self,
        address: str,
        boundary: Boundary,
        services: Sequence[str],
        register: Sequence[Register],
        *,
        credentials: grpc.ServerCredentials | None = None,
        tls: TlsListener | None = None,
        meter: RpcMeter | None = None,
    ) -> None:
        self._services = ("", *services)
        self._balancers = Balancers()
        self._health = Health(self._balancers)
        self._server = grpc.aio.server(
            interceptors=(boundary,) if meter is None else (meter, boundary), options=SERVER_OPTIONS
        )
        for add in register:
            add(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.address = self._listen(address, credentials)
        self.tls_address = "" if tls is None else self._listen(tls.address, tls.credentials())

    def _listen(self, address: str, credentials: grpc.ServerCredentials | None) -> str:
        if credentials is None:
            return _listen(address, self._server.add_insecure_port)
        return _listen(address, lambda address: self._server.add_secure_port(address, credentials))

    async def start(self) -> None:
        """Begins to serve; not yet ready."""
        await self.set_ready(False)
        await self._server.start()

    async def set_ready(self, ready: bool) -> None:
        """Tells the health service's callers whether to send work here."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self._health.set(service, status)

    async def leave(self, grace: float) -> None:
        """Tells that no more work is to be sent here, and goes on serving until the balancers in front know: for a few
        of the `grace`'s seconds at most, and not at all where none asks for health.
        """
        await self._health.enter_graceful_shutdown()
        await self._balancers.know(grace)

    async def stop(self, grace: float) -> None:
        """Refuses new RPCs, lets open ones finish for `grace` seconds, then ends them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


def _listen(address: str, add: Callable[[str], int]) -> str:
    try:
        return f"{address.rpartition(':')[0]}:{add(address)}"
    except RuntimeError as error:
        raise AddressInUseError(
            f"Cannot listen on {address}: it is in use, or not an address of this machine; "
            "stop what listens there, or choose another address in weft.yaml."
        ) from error


async def check_health(channel: grpc.aio.Channel, service: str, *, timeout: float) -> bool:
    """Whether a server says that it is ready. False also when it does not answer within `timeout` seconds."""
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=timeout
        )
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
