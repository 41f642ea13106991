"""What a process's `/metrics` tells of its spans."""

from __future__ import annotations

from prometheus_client import Counter

SPANS = Counter(
    "weft_trace_spans",
    "Ended spans by sink (collector, local) and outcome: exported, dropped (it did not keep up), failed (it could not "
    "be reached, or refused them).",
    ("sink", "outcome"),
)
