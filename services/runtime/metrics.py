"""A process's own `/metrics`, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import prometheus_client


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `metrics`."""

    host: str = "127.0.0.1"
    port: int | None = 9100
    """The first port: the router's. Registry, auth and facade follow. 0 takes any free port, null serves no metrics."""


class MetricsAddressError(Exception):
    """Cannot listen there; the message says what to do."""


@contextmanager
def serving_metrics(host: str, port: int | None) -> Iterator[str]:
    """Serves `/metrics` on a thread of its own, and gives its address; empty where there is no port."""
    if port is None:
        yield ""
        return
    try:
        server, thread = prometheus_client.start_http_server(port, host)
    except OSError as error:
        raise MetricsAddressError(
            f"Cannot serve metrics on {host}:{port}: {error.strerror}; set 'metrics.port' to another, or to null."
        ) from error
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
