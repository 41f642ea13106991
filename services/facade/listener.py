"""The facade's listening socket."""

from __future__ import annotations

import socket

from services.rpc.server import AddressInUseError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 means any. Raises `AddressInUseError` with what to do about it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise AddressInUseError(
            f"Cannot listen on {host}:{port}: {error.strerror}; stop what listens there, or choose another port."
        ) from error
    listener.setblocking(False)
    return listener
