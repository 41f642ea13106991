"""The load signals of vLLM's `/metrics`, under vLLM's names and labels."""

from __future__ import annotations

from services.sim.engine import Engine


def exposition(engine: Engine, model: str) -> bytes:
    """The metrics in Prometheus's text format: https://docs.vllm.ai/en/latest/usage/metrics.html"""
    cache = engine.cache
    rows = (
        ("num_requests_running", "gauge", "Number of requests in model execution batches.", engine.running),
        ("num_requests_waiting", "gauge", "Number of requests waiting to be processed.", engine.waiting),
        ("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", engine.kv_cache_usage),
        ("prefix_cache_queries_total", "counter", "Prefix cache queries, in tokens.", cache.queried_tokens),
        ("prefix_cache_hits_total", "counter", "Prefix cache hits, in tokens.", cache.hit_tokens),
        ("prompt_tokens_total", "counter", "Number of prefill tokens processed.", engine.prompt_tokens),
        ("generation_tokens_total", "counter", "Number of generation tokens processed.", engine.generated_tokens),
    )
    label = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    lines = [
        f"# HELP vllm:{name} {meaning}\n"
        f"# TYPE vllm:{name} {kind}\n"
        f'vllm:{name}{{engine="0",model_name="{label}"}} {float(value)}\n'
        for name, kind, meaning, value in rows
    ]
    return "".join(lines).encode()
