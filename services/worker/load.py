"""vLLM's load, read from its Prometheus metrics (https://docs.vllm.ai/en/latest/usage/metrics.html)."""

from __future__ import annotations

import math
from typing import Final

from weft.session.v1 import frame_pb2

_COUNTS: Final = {
    "vllm:num_requests_running": "num_requests_running",
    "vllm:num_requests_waiting": "num_requests_waiting",
    "vllm:prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:prefix_cache_hits_total": "prefix_cache_hits",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
}
_CACHE_USAGE: Final = "vllm:kv_cache_usage_perc"


def parse_load(metrics: str) -> frame_pb2.Load:
    """The load in a page of metrics in Prometheus' text format. Of several engines, counts add up and the fullest cache
    counts.
    """
    counts = dict.fromkeys(_COUNTS.values(), 0.0)
    usage = 0.0
    for line in metrics.splitlines():
        if not line.startswith("vllm:"):
            continue
        series, _, value = line.rpartition(" ")
        name = series.partition("{")[0]
        if name in _COUNTS:
            counts[_COUNTS[name]] += _number(value)
        elif name == _CACHE_USAGE:
            usage = max(usage, _number(value))
    return frame_pb2.Load(kv_cache_usage=usage, **{name: int(count) for name, count in counts.items()})


def _number(text: str) -> float:
    """A value; 0 for what is no count (the format has NaN and +Inf), as the other samples still tell something."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0
