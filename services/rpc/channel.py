"""gRPC channels and servers, with the options that all of Weft shares."""

from __future__ import annotations

from typing import Final

import grpc

from services.core import tracing

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""The same on both sides: gRPC's own default lets a server receive only 4 MiB, and refuses in mid-call."""

PINGS_MS: Final = "grpc.http2.min_ping_interval_without_data_ms"

_COMMON: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # The calls inside a session have their own pings; these keep the middleboxes on the way from forgetting the
    # connection. Five minutes is the least that servers and proxies accept unasked: sooner, and they answer GOAWAY.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
CHANNEL_OPTIONS: Final = (
    *_COMMON,
    # Inside the mesh, a proxy in the environment is always somebody else's.
    ("grpc.enable_http_proxy", 0),
    # The default waits up to two minutes between attempts; a router that comes back is to be found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
SERVER_OPTIONS: Final = (
    *_COMMON,
    # By default two servers can share a port unnoticed, and half the calls reach the wrong one.
    ("grpc.so_reuseport", 0),
    # A proxy in front asks every 30 s whether the other side is there, also in silence. By default the fourth ping
    # within five minutes ends the connection ("Too many pings"), and with it all that waits for a first byte there.
    (PINGS_MS, 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def dial(address: str, *options: tuple[str, int | str]) -> grpc.aio.Channel:
    """A plain channel inside the mesh. It connects when it is first used. `options` are gRPC's, beside ours."""
    return grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, *options))


def bearer(credential: str) -> tuple[tuple[str, str], ...]:
    """The metadata of an RPC within the mesh: the credential, none where there is none, because a certificate tells who
    calls; and the span in whose course it is made, where there is one. No interceptor does the latter: each of these
    costs every RPC of its channel a task.
    """
    metadata = (("authorization", f"Bearer {credential}"),) if credential else ()
    place = tracing.current.get()
    return metadata if place is None else (*metadata, (tracing.TRACEPARENT, place.traceparent))


def credential_of(metadata: object) -> str | None:
    """The credential in a call's metadata, None if it has none."""
    for key, value in metadata or ():  # type: ignore[attr-defined]
        if key == "authorization":
            return parse_bearer(value)
    return None


def parse_bearer(header: str) -> str | None:
    """The credential in an `Authorization` header, None if it holds no bearer token (RFC 6750)."""
    scheme, _, credential = header.partition(" ")
    return credential.strip() or None if scheme.lower() == "bearer" else None
