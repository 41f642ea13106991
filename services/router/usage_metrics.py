"""What the router's `/metrics` tells of usage records."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

DROPPED = Counter(
    "weft_router_usage_dropped",
    "Usage records that are lost: memory (the disk did not keep up), spool (auth was away for too long), "
    "torn (a write was cut off), refused (auth does not take it).",
    ("why",),
)
SENT = Counter("weft_router_usage_sent", "Usage records that auth has acknowledged.")
SPOOL_BYTES = Gauge("weft_router_usage_spool_bytes", "Usage records on the disk that auth does not have yet.")

for _why in ("memory", "spool", "torn", "refused"):
    DROPPED.labels(_why)  # from the start: of a counter that comes with its first loss, Prometheus sees no increase
