"""What the router shows of its state: who is attached, how busy they are, who waits, and how warm its memory is. It is
read at each scrape, and costs calls nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from weft.session.v1 import frame_pb2

from services.core.measures import Family, Labels, counters, gauge, gauges
from services.router.backends.session import Sessions
from services.router.gateway import Gateway
from services.router.permits import Permits
from services.router.roster import Roster
from services.rpc.authenticator import CachedAuthenticator
from services.rpc.catalogue import CatalogueWatcher
from services.runtime.catalogue_metrics import catalogue_age

# Not `instance`: Prometheus gives that name to what it scrapes, and would rename ours.
_WORKER: Final = ("endpoint", "worker")


@dataclass(frozen=True, slots=True)
class RouterState:
    """Where it is read. `route` gives the label that stands for a public name of a model."""

    roster: Roster
    sessions: Sessions
    gateway: Gateway
    permits: Permits
    principals: CachedAuthenticator
    registry: CatalogueWatcher
    route: Callable[[str], str]

    def families(self) -> Iterable[Family]:
        """What there is to show. Workers that have left are not in it."""
        yield gauge("weft_router_open_calls", "Calls that are open.", self.gateway.open_calls)
        yield from self._waiting()
        yield from self._servers()
        yield from self._routes()
        yield from self._caches()
        yield from vllm_load([(*session.key, session.last_report) for session in self.sessions])
        yield from catalogue_age("router", self.registry)

    def _waiting(self) -> Iterable[Family]:
        waiting = Counter[str]()
        for sought, calls in self.roster.waiting_calls.counts.items():
            waiting[self.route(sought.model)] += calls
        rows = [((route,), calls) for route, calls in waiting.items()]
        yield gauges(
            "weft_router_waiting_calls", "Calls that wait for a worker, by what they ask for.", ("route",), rows
        )
        size = self.roster.waiting_calls.size
        yield gauge("weft_router_waiting_bytes", "Bodies of the calls that wait for a worker.", size)

    def _servers(self) -> Iterable[Family]:
        sessions, calls, tokens = Counter[str](), Counter[str](), Counter[str]()
        for endpoint, _ in [session.key for session in self.sessions]:
            sessions[endpoint] += 1
        for server in self.roster.servers:
            calls[server.endpoint] += server.open_calls
            tokens[server.endpoint] += server.outstanding_tokens
        yield _by_endpoint("weft_router_sessions", "Workers that are attached.", sessions)
        yield _by_endpoint("weft_router_outstanding_calls", "Calls that servers have at present.", calls)
        yield _by_endpoint(
            "weft_router_outstanding_tokens", "Tokens, as reckoned, of the calls that servers have at present.", tokens
        )

    def _routes(self) -> Iterable[Family]:
        ready, startable = Counter[str](), Counter[str]()
        index = self.roster.index
        for model, targets in index.by_route.items():
            route = self.route(model)
            ready[route] += sum(target.server.ready and not target.server.draining for target in targets)
            startable[route] += len(index.launchable_by_route.get(model, ()))
        label = ("route",)
        yield gauges(
            "weft_router_ready_servers",
            "Workers and HTTP servers that serve a route and are ready.",
            label,
            [((route,), count) for route, count in ready.items()],
        )
        yield gauges(
            "weft_router_startable_endpoints",
            "Endpoints where the launcher can start workers for a route.",
            label,
            [((route,), count) for route, count in startable.items()],
        )

    def _caches(self) -> Iterable[Family]:
        principals, permits = self.principals, self.permits
        yield counters(
            "weft_router_cache_lookups_total",
            "Questions to the router's memory: of whose credentials are, and of what callers may.",
            ("cache", "result"),
            [
                (("credentials", "hit"), principals.hits),
                (("credentials", "miss"), principals.misses),
                (("permits", "hit"), permits.hits),
                (("permits", "miss"), permits.misses),
            ],
        )


def vllm_load(workers: Iterable[tuple[str, str, frame_pb2.Report]]) -> Iterable[Family]:
    """The load that each worker, by endpoint and name, has reported of its vLLM."""
    rows: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
    for endpoint, worker, report in workers:
        if report.HasField("load"):
            for field in (*_GAUGES, *_COUNTERS):
                rows[field].append(((endpoint, worker), getattr(report.load, field)))
    for field, (name, meaning) in _GAUGES.items():
        yield gauges(name, meaning, _WORKER, rows[field])
    for field, (name, meaning) in _COUNTERS.items():
        yield counters(name, meaning, _WORKER, rows[field])


_GAUGES: Final = {
    "num_requests_running": ("weft_vllm_requests_running", "Requests that a worker's vLLM computes."),
    "num_requests_waiting": ("weft_vllm_requests_waiting", "Requests that wait inside a worker's vLLM."),
    "kv_cache_usage": ("weft_vllm_kv_cache_usage_ratio", "How full the KV cache of a worker's vLLM is, from 0 to 1."),
}
_COUNTERS: Final = {
    "prefix_cache_queries": (
        "weft_vllm_prefix_cache_queried_tokens_total",
        "Tokens that a worker's vLLM has looked for in its prefix cache.",
    ),
    "prefix_cache_hits": (
        "weft_vllm_prefix_cache_hit_tokens_total",
        "Tokens that a worker's vLLM has found in its prefix cache.",
    ),
    "prompt_tokens": ("weft_vllm_prompt_tokens_total", "Tokens of prompts that a worker's vLLM has read."),
    "generation_tokens": ("weft_vllm_generated_tokens_total", "Tokens that a worker's vLLM has generated."),
}


def _by_endpoint(name: str, meaning: str, counts: Counter[str]) -> Family:
    rows: Sequence[tuple[Labels, float]] = [((endpoint,), count) for endpoint, count in counts.items()]
    return gauges(name, meaning, ("endpoint",), rows)
