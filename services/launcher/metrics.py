"""The launcher's metrics."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.launcher.starts import Start

_SECONDS: Final = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 24 * 3600)
_OUTCOMES: Final = frozenset(
    (
        *("stopped", "walltime", "refused", "router_unreachable", "vllm_failed", "site_error", "lost", "given_up"),
        *("bad_credentials", "unknown_endpoint", "offline", "function_not_allowed", "unknown_function", "too_large"),
        *("service_unavailable", "task_failed", "scheduler_rejected"),
    )
)

STARTS = Counter("weft_launcher_starts", "Starts that are over, by how they ended.", ("endpoint", "outcome"))
LIVE = Gauge("weft_launcher_live_starts", "Starts that are not over, by state.", ("state",))
STAGE = Histogram(
    "weft_launcher_stage_seconds",
    "How long starts took: submit, from the decision to the task; queue, until the worker attached; load, until its "
    "vLLM answered.",
    ("endpoint", "stage"),
    buckets=_SECONDS,
)
LEADING = Gauge("weft_launcher_leading", "1 if this launcher acts, 0 if another on its database does.")


def count_change(before: Start, after: Start) -> None:
    """Notes what has happened to a start between two of its states."""
    endpoint = after.endpoint
    _stage(endpoint, "submit", before.submitted_at, after.submitted_at, after.created_at)
    _stage(endpoint, "queue", before.attached_at, after.attached_at, after.submitted_at)
    _stage(endpoint, "load", before.ready_at, after.ready_at, after.attached_at)
    if before.live and not after.live:
        STARTS.labels(endpoint, after.outcome if after.outcome in _OUTCOMES else "other").inc()


def _stage(endpoint: str, stage: str, before: float | None, after: float | None, since: float | None) -> None:
    if before is None and after is not None and since is not None:
        STAGE.labels(endpoint, stage).observe(max(0.0, after - since))
