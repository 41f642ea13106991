"""How the router is reached: its address, and what protects the connection."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import grpc

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""The router's own limit for one message; gRPC's default would let a client receive only 4 MiB."""

Options = tuple[tuple[str, int | str], ...]

OPTIONS: Final[Options] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Middleboxes are not to forget a connection on which a long answer is computed. Five minutes is the least that
    # servers and proxies accept unasked: sooner, and they answer GOAWAY.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # gRPC's default waits up to two minutes between attempts to connect: a router that is back is to be found soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # Retries are made here, by reason; in two layers they would multiply.
    ("grpc.enable_retries", 0),
)

# A key would go to a proxy in the clear, and nothing on loopback is behind one.
_PLAIN: Final[Options] = (*OPTIONS, ("grpc.enable_http_proxy", 0))


@dataclass(frozen=True, slots=True)
class Tls:
    """A connection by TLS to a router whose certificate is of the authorities in `ca_file`; by default, of those that
    this machine trusts. `server_name` is the name in the certificate, where it is not that of the address.
    """

    ca_file: str | Path | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel. Raises OSError if a file cannot be read."""
        return grpc.ssl_channel_credentials(_authorities(self.ca_file))


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualTls(Tls):
    """The same, where the caller too shows a certificate (docs/tls.md). The files are read when the client is made:
    once the certificate is renewed, make another client.
    """

    certificate_file: str | Path
    key_file: str | Path

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel. Raises OSError if a file cannot be read."""
        return grpc.ssl_channel_credentials(
            _authorities(self.ca_file), Path(self.key_file).read_bytes(), Path(self.certificate_file).read_bytes()
        )


@dataclass(frozen=True, slots=True)
class Target:
    """A router, as it is dialled. Without `credentials` the connection is plain."""

    address: str
    credentials: grpc.ChannelCredentials | None
    options: Options

    @classmethod
    def of(cls, address: str, tls: Tls | None, *, insecure: bool) -> Target:
        """The target of an address: plain on loopback, else by TLS, unless `insecure` says otherwise. Raises ValueError
        for what is no address or contradicts itself, OSError if a file cannot be read.
        """
        if "://" in address and not address.startswith("unix:"):
            raise ValueError(f"{address!r} is a URL; give HOST:PORT: by TLS it is anyway, unless it is on loopback.")
        if insecure and tls is not None:
            raise ValueError("`insecure` asks for a plain connection, and `tls` for another; give one.")
        if tls is None and not insecure and not is_loopback(address):
            tls = Tls()
        if tls is None:
            return cls(address, None, _PLAIN)
        name: Options = (("grpc.ssl_target_name_override", tls.server_name),) if tls.server_name else ()
        return cls(address, tls.credentials(), (*OPTIONS, *name))

    def dial(self) -> grpc.Channel:
        """A channel for plain code. It connects when it is first used."""
        if self.credentials is None:
            return grpc.insecure_channel(self.address, self.options)
        return grpc.secure_channel(self.address, self.credentials, self.options)

    def dial_async(self) -> grpc.aio.Channel:
        """The same, for the loop that runs."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.address, self.options)
        return grpc.aio.secure_channel(self.address, self.credentials, self.options)


def is_loopback(address: str) -> bool:
    """Whether what goes to this address stays on this machine. Of a form that is not known, that is not assumed."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _authorities(ca_file: str | Path | None) -> bytes | None:
    """The authorities' certificates; None leaves it to those that gRPC brings."""
    if ca_file is not None:
        return Path(ca_file).read_bytes()
    system = ssl.get_default_verify_paths().cafile
    return Path(system).read_bytes() if system else None
