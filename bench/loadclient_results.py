"""What the load client reports. Times are in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The shape of a set of times; all zero for an empty one."""

    p50: float
    p90: float
    p99: float
    highest: float

    @classmethod
    def of(cls, times: Iterable[float]) -> Quantiles:
        ordered = sorted(times) or [0.0]
        last = len(ordered) - 1
        return cls(*(ordered[round(last * share)] for share in (0.5, 0.9, 0.99, 1.0)))


@dataclass(frozen=True, slots=True)
class ClosedLoopResult:
    """Connections that each sent a request, waited for its answer, and sent the next."""

    connections: int
    #: Good answers: status 200, a whole body, a finished choice.
    requests: int
    errors: int
    seconds: float
    requests_per_s: float
    latency: Quantiles
    #: CPU time of this client, to see that it was not the bottleneck.
    client_cpu_s: float
    first_error: str | None


@dataclass(frozen=True, slots=True)
class StreamsResult:
    """Streams that ran at once. Chunks are server-sent events; `[DONE]` and the opening one count too."""

    streams: int
    #: Streams with status 200, `[DONE]` and the end of the body.
    complete: int
    #: Complete streams with an event for each token that was asked for.
    intact: int
    chunks: int
    body_bytes: int
    seconds: float
    chunks_per_s: float
    #: From the request's last byte to the first event.
    ttft: Quantiles
    #: From one event of a stream to its next.
    gap: Quantiles
    client_cpu_s: float
    first_error: str | None
