"""How one part of the mesh listens, and dials the others: plainly, or by mutual TLS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from services.core.principal import Principal
from services.rpc.certificate import Certificate, Material
from services.rpc.channel import CHANNEL_OPTIONS, dial
from services.rpc.peer import Trust, part_host
from services.rpc.peer_principals import PeerPrincipals
from services.rpc.reloading_channel import ReloadingChannel
from services.rpc.server_tls import server_credentials


@dataclass(frozen=True, slots=True)
class Secure:
    """A part's own certificate, and whom it trusts."""

    certificate: Certificate
    trust: Trust


@dataclass(frozen=True, slots=True)
class Wire:
    """Without `secure`, connections are plain, and keys alone tell who calls."""

    secure: Secure | None = None

    def dial(self, address: str, part: str, *options: tuple[str, int | str]) -> grpc.aio.Channel:
        """A channel to a part of the mesh. It connects when it is first used, and to nobody who cannot show that part's
        certificate. `options` are gRPC's, beside those of every channel.
        """
        if self.secure is None:
            return dial(address, *options)
        name = part_host(self.secure.trust.domain, part)
        every = (*CHANNEL_OPTIONS, *options, ("grpc.ssl_target_name_override", name))

        def connect(material: Material) -> grpc.aio.Channel:
            return grpc.aio.secure_channel(address, _channel_credentials(material), options=every)

        return ReloadingChannel(self.secure.certificate.current, connect)

    @property
    def credentials(self) -> grpc.ServerCredentials | None:
        """What a server shows; it then demands a certificate of every client."""
        return None if self.secure is None else server_credentials(self.secure.certificate)

    def service_key(self, file: Path) -> Callable[[], str]:
        """What gives the key that this part shows to the others, read at each use so that a rotated one is taken up;
        nothing where the certificate tells who it is. It may raise OSError.
        """
        return (lambda: file.read_text().strip()) if self.secure is None else (lambda: "")

    def peers(self, authenticate_peer: Callable[[str], Awaitable[Principal]]) -> PeerPrincipals | None:
        """What tells callers by their certificates; see `PeerPrincipals`."""
        return None if self.secure is None else PeerPrincipals(self.secure.trust, authenticate_peer)


PLAIN: Final = Wire()


@dataclass(frozen=True, slots=True)
class RouterWay:
    """Routers of the same mesh, for an `Attachment`."""

    wire: Wire = PLAIN

    def dial(self, router: str) -> grpc.aio.Channel:
        """A channel to a router."""
        return self.wire.dial(router, "router")


def _channel_credentials(material: Material) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(material.ca, material.key, material.chain)
