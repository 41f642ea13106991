"""The panels of the dashboard, and the language that they are written in."""

from __future__ import annotations

from dataclasses import dataclass

CALL = 'route=~"$route",endpoint=~"$endpoint"'
GEN_AI = 'gen_ai_request_model=~"$route",endpoint=~"$endpoint"'
PLACE = 'endpoint=~"$endpoint"'
ROUTE = 'route=~"$route"'


@dataclass(frozen=True)
class Query:
    """PromQL, and how its series are called; braces hold labels."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """`unit` is one of Grafana's; `kind` is a panel type of Grafana. `width` counts of 24 columns."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    tells: str = ""
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


def rate(counter: str, labels: str = "") -> str:
    """How fast a counter grows."""
    return f"rate({counter}{{{labels}}}[$__rate_interval])"


def by(labels: str, expression: str) -> str:
    """The sum for each value of the labels."""
    return f"sum by ({labels}) ({expression})"


def of_workers(counter: str) -> str:
    """How fast a counter of vLLMs grows, by endpoint: a worker that serves several routers is on the page of each."""
    return by("endpoint", f"max by (endpoint,worker) ({rate(counter, PLACE)})")


def quantiles(
    histogram: str, labels: str, *, of: str = "", quantiles: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> tuple[Query, ...]:
    """Quantiles of a histogram, for each value of the labels `of`."""
    grouped = f"le,{of}" if of else "le"
    shown = "".join(f" {{{{{label}}}}}" for label in of.split(",") if label)
    return tuple(
        Query(f"histogram_quantile({q}, {by(grouped, rate(histogram + '_bucket', labels))})", f"p{q * 100:g}{shown}")
        for q in quantiles
    )


def ratio(part: str, whole: str, *, of: str = "", legend: str = "") -> Query:
    """A share, 0 where there is nothing of the part."""
    if of:
        return Query(f"{by(of, part)} / {by(of, whole)}", legend)
    return Query(f"(sum({part}) or vector(0)) / sum({whole})", legend)


def now(title: str, unit: str, expression: str, tells: str = "") -> Panel:
    """One number, as it is now."""
    return Panel(title, unit, (Query(expression),), tells, kind="stat", width=4)


def over_time(title: str, unit: str, *queries: Query, tells: str = "", width: int = 8, stacked: bool = False) -> Panel:
    """Lines over time."""
    return Panel(title, unit, queries, tells, width=width, stacked=stacked)


TRAFFIC = Row(
    "Traffic",
    (
        now("Calls", "reqps", f"sum({rate('weft_router_calls_total', CALL)})"),
        now(
            "Faults",
            "percentunit",
            ratio(
                rate("weft_router_calls_total", CALL + ',fault="mesh"'), rate("weft_router_calls_total", CALL)
            ).expression,
            "The share of calls that ended by a fault of the mesh or of a model server, not of the caller.",
        ),
        now("Open calls", "short", "sum(weft_router_open_calls)"),
        now("Waiting calls", "short", f"sum(weft_router_waiting_calls{{{ROUTE}}}) or vector(0)"),
        now("Ready servers", "short", f"sum(weft_router_ready_servers{{{ROUTE}}})"),
        now(
            "First token, p95",
            "s",
            quantiles("gen_ai_server_time_to_first_token_seconds", GEN_AI, quantiles=(0.95,))[0].expression,
        ),
        over_time(
            "Calls by route",
            "reqps",
            Query(by("route", rate("weft_router_calls_total", CALL)), "{{route}}"),
            stacked=True,
        ),
        over_time(
            "Calls by outcome",
            "reqps",
            Query(by("outcome", rate("weft_router_calls_total", CALL)), "{{outcome}}"),
            stacked=True,
        ),
        over_time(
            "Calls by operation",
            "reqps",
            Query(by("operation", rate("weft_router_calls_total", CALL)), "{{operation}}"),
            stacked=True,
        ),
        over_time(
            "Faults by endpoint",
            "percentunit",
            ratio(
                rate("weft_router_calls_total", CALL + ',fault="mesh"'),
                rate("weft_router_calls_total", CALL),
                of="endpoint",
                legend="{{endpoint}}",
            ),
        ),
        over_time(
            "Retries",
            "reqps",
            Query(by("endpoint,reason", rate("weft_router_retries_total", PLACE)), "{{endpoint}} {{reason}}"),
            tells="Attempts that failed before their first byte, and moved on; callers saw nothing of them.",
        ),
        over_time(
            "Refused before the caller was known",
            "reqps",
            Query(by("reason", rate("weft_router_turned_away_total")), "{{reason}}"),
        ),
        over_time(
            "HTTP responses by status",
            "reqps",
            Query(by("status", rate("weft_facade_responses_total")), "{{status}}"),
            tells="499: the client left before the end.",
            stacked=True,
        ),
        over_time(
            "HTTP requests by route",
            "reqps",
            Query(by("route", rate("weft_facade_responses_total")), "{{route}}"),
            stacked=True,
        ),
        over_time(
            "Answers that stood still",
            "short",
            Query(by("endpoint", rate("weft_router_credit_stalls_total", PLACE)), "{{endpoint}}"),
            tells="How often a second an answer waited for its client, which did not read.",
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        over_time("Time to first token", "s", *quantiles("gen_ai_server_time_to_first_token_seconds", GEN_AI)),
        over_time(
            "Time to first token by route, p95",
            "s",
            *quantiles(
                "gen_ai_server_time_to_first_token_seconds", GEN_AI, of="gen_ai_request_model", quantiles=(0.95,)
            ),
        ),
        Panel(
            "Time to first token",
            "s",
            (
                Query(
                    "sum by (le) (increase("
                    f"gen_ai_server_time_to_first_token_seconds_bucket{{{GEN_AI}}}[$__rate_interval]))",
                    "{{le}}",
                ),
            ),
            kind="heatmap",
        ),
        over_time("Time per output token", "s", *quantiles("gen_ai_server_time_per_output_token_seconds", GEN_AI)),
        over_time(
            "Time per output token by endpoint, p95",
            "s",
            *quantiles("gen_ai_server_time_per_output_token_seconds", GEN_AI, of="endpoint", quantiles=(0.95,)),
        ),
        over_time("Whole answers", "s", *quantiles("gen_ai_server_request_duration_seconds", GEN_AI)),
        over_time(
            "Whole answers by operation, p95",
            "s",
            *quantiles("gen_ai_server_request_duration_seconds", GEN_AI, of="gen_ai_operation_name", quantiles=(0.95,)),
        ),
        over_time(
            "HTTP requests by route, p95",
            "s",
            *quantiles("weft_facade_duration_seconds", "", of="route", quantiles=(0.95,)),
        ),
    ),
)

TOKENS = Row(
    "Tokens",
    (
        over_time(
            "Tokens in and out",
            "short",
            Query(by("gen_ai_token_type", rate("gen_ai_client_token_usage_sum", GEN_AI)), "{{gen_ai_token_type}}"),
            tells="A second. Of calls that have ended: a long answer counts at its end.",
        ),
        over_time(
            "Tokens out by route",
            "short",
            Query(
                by(
                    "gen_ai_request_model",
                    rate("gen_ai_client_token_usage_sum", GEN_AI + ',gen_ai_token_type="output"'),
                ),
                "{{gen_ai_request_model}}",
            ),
            stacked=True,
        ),
        over_time(
            "Input tokens that were cached",
            "percentunit",
            ratio(
                rate("weft_router_cached_tokens_total", CALL),
                rate("gen_ai_client_token_usage_sum", GEN_AI + ',gen_ai_token_type="input"'),
            ),
        ),
        over_time(
            "Length of prompts", "short", *quantiles("gen_ai_client_token_usage", GEN_AI + ',gen_ai_token_type="input"')
        ),
        over_time(
            "Length of answers",
            "short",
            *quantiles("gen_ai_client_token_usage", GEN_AI + ',gen_ai_token_type="output"'),
        ),
        over_time(
            "Calls whose tokens were estimated",
            "reqps",
            Query(by("endpoint", rate("weft_router_estimated_calls_total", CALL)), "{{endpoint}}"),
            tells="They were cut off before their usage came, or their model server tells none.",
        ),
    ),
)

WORKERS = Row(
    "Workers and vLLM",
    (
        over_time(
            "Workers attached", "short", Query(by("endpoint", f"weft_router_sessions{{{PLACE}}}"), "{{endpoint}}")
        ),
        over_time(
            "Servers that are ready", "short", Query(by("route", f"weft_router_ready_servers{{{ROUTE}}}"), "{{route}}")
        ),
        over_time(
            "Calls at servers",
            "short",
            Query(by("endpoint", f"weft_router_outstanding_calls{{{PLACE}}}"), "{{endpoint}}"),
        ),
        over_time(
            "Tokens at servers, as reckoned",
            "short",
            Query(by("endpoint", f"weft_router_outstanding_tokens{{{PLACE}}}"), "{{endpoint}}"),
        ),
        over_time(
            "vLLM: requests running",
            "short",
            Query(f"max by (endpoint,worker) (weft_vllm_requests_running{{{PLACE}}})", "{{endpoint}} {{worker}}"),
        ),
        over_time(
            "vLLM: requests waiting",
            "short",
            Query(f"max by (endpoint,worker) (weft_vllm_requests_waiting{{{PLACE}}})", "{{endpoint}} {{worker}}"),
        ),
        over_time(
            "vLLM: KV cache",
            "percentunit",
            Query(f"max by (endpoint,worker) (weft_vllm_kv_cache_usage_ratio{{{PLACE}}})", "{{endpoint}} {{worker}}"),
        ),
        over_time(
            "vLLM: prefix cache hits",
            "percentunit",
            Query(
                f"{of_workers('weft_vllm_prefix_cache_hit_tokens_total')} / "
                f"({of_workers('weft_vllm_prefix_cache_queried_tokens_total')} > 0)",
                "{{endpoint}}",
            ),
        ),
        over_time(
            "vLLM: tokens",
            "short",
            Query(of_workers("weft_vllm_generated_tokens_total"), "{{endpoint}} out"),
            Query(of_workers("weft_vllm_prompt_tokens_total"), "{{endpoint}} in"),
            tells="A second, as vLLM counts them.",
        ),
    ),
)

COLD = Row(
    "Cold starts",
    (
        over_time(
            "Calls that wait, by route",
            "short",
            Query(by("route", f"weft_router_waiting_calls{{{ROUTE}}}"), "{{route}}"),
        ),
        over_time("Bodies of calls that wait", "bytes", Query("sum(weft_router_waiting_bytes)", "bytes")),
        over_time(
            "Starts under way", "short", Query("sum by (state) (weft_launcher_live_starts)", "{{state}}"), stacked=True
        ),
        over_time(
            "Stages of starts, p50",
            "s",
            *quantiles("weft_launcher_stage_seconds", PLACE, of="stage", quantiles=(0.5,)),
            tells="submit: to the task at Globus; queue: to the worker that attached; load: to its vLLM that answered.",
        ),
        over_time(
            "Stages of starts, p95",
            "s",
            *quantiles("weft_launcher_stage_seconds", PLACE, of="stage", quantiles=(0.95,)),
        ),
        over_time(
            "Starts that ended",
            "short",
            Query(
                f"sum by (outcome) (increase(weft_launcher_starts_total{{{PLACE}}}[$__rate_interval]))", "{{outcome}}"
            ),
        ),
        over_time(
            "Endpoints that can start workers",
            "short",
            Query(by("route", f"weft_router_startable_endpoints{{{ROUTE}}}"), "{{route}}"),
        ),
        over_time("Launchers that act", "short", Query("sum(weft_launcher_leading)", "acting")),
    ),
)

LIMITS = Row(
    "Limits and auth",
    (
        over_time(
            "Calls refused by limits",
            "reqps",
            Query(by("reason", rate("weft_router_limits_refused_total")), "{{reason}}"),
        ),
        over_time(
            "Calls admitted by limits", "reqps", Query(f"sum({rate('weft_router_limits_admitted_total')})", "admitted")
        ),
        over_time(
            "The limits' store",
            "short",
            Query(
                by("outcome", rate("weft_router_limits_store_round_trips_total")), "round trips a second, {{outcome}}"
            ),
            Query("min(weft_router_limits_store_up)", "up"),
        ),
        over_time(
            "Leases and rules",
            "short",
            Query("sum(weft_router_limits_leases)", "leases"),
            Query("sum(weft_router_limits_rules)", "rules"),
        ),
        over_time(
            "Credentials judged",
            "reqps",
            Query(by("kind,outcome", rate("weft_auth_authentications_total")), "{{kind}} {{outcome}}"),
        ),
        over_time(
            "The router's memory: hits",
            "percentunit",
            ratio(
                rate("weft_router_cache_lookups_total", 'result="hit"'),
                rate("weft_router_cache_lookups_total"),
                of="cache",
                legend="{{cache}}",
            ),
        ),
        over_time(
            "Issuers' tokens looked up",
            "reqps",
            Query(by("result", rate("weft_auth_token_lookups_total")), "{{result}}"),
        ),
        over_time(
            "Services that hear of revocations", "short", Query("sum(weft_auth_revocation_watchers)", "watching")
        ),
    ),
)

SERVICES = Row(
    "The services themselves",
    (
        Panel(
            "Versions",
            "short",
            (Query("sum by (service,version) (weft_build_info)", "{{service}} {{version}}"),),
            kind="stat",
        ),
        over_time("Up", "short", Query('min by (job) (up{job=~"weft-.*"})', "{{job}}")),
        over_time(
            "Event loop lag, p99",
            "s",
            *quantiles("weft_event_loop_lag_seconds", "", of="job", quantiles=(0.99,)),
            tells="How late a process is for everything that it does. Above some 50 ms it has too much to do.",
        ),
        over_time(
            "CPU",
            "percentunit",
            Query(
                'sum by (job,instance) (rate(process_cpu_seconds_total{job=~"weft-.*"}[$__rate_interval]))',
                "{{job}} {{instance}}",
            ),
        ),
        over_time("Memory", "bytes", Query('process_resident_memory_bytes{job=~"weft-.*"}', "{{job}} {{instance}}")),
        over_time("Open files", "short", Query('process_open_fds{job=~"weft-.*"}', "{{job}} {{instance}}")),
        over_time("RPCs by method", "reqps", Query(by("method", rate("weft_rpc_server_calls_total")), "{{method}}")),
        over_time(
            "RPCs by status",
            "reqps",
            Query(by("service,code", rate("weft_rpc_server_calls_total")), "{{service}} {{code}}"),
        ),
        over_time("RPCs, p95", "s", *quantiles("weft_rpc_server_duration_seconds", "", of="method", quantiles=(0.95,))),
        over_time(
            "Databases, p95", "s", *quantiles("weft_store_duration_seconds", "", of="service", quantiles=(0.95,))
        ),
        over_time(
            "Databases that did not answer",
            "short",
            Query(by("service", rate("weft_store_errors_total")), "{{service}}"),
        ),
        over_time(
            "Age of the catalogue",
            "s",
            Query("max by (service,instance) (weft_catalogue_age_seconds)", "{{service}} {{instance}}"),
        ),
        over_time(
            "The catalogue",
            "short",
            Query("max by (kind) (weft_registry_resources)", "{{kind}}"),
            Query("sum(weft_registry_watchers)", "watchers"),
            Query("max(weft_registry_catalogue_version)", "version"),
        ),
        over_time(
            "Audit logs that can be written", "short", Query("min by (service) (weft_audit_writable)", "{{service}}")
        ),
        over_time(
            "Usage records",
            "short",
            Query(f"sum({rate('weft_router_usage_sent_total')})", "sent a second"),
            Query(by("why", rate("weft_router_usage_dropped_total")), "lost a second: {{why}}"),
        ),
        over_time(
            "Usage records on the disk",
            "bytes",
            Query("sum by (instance) (weft_router_usage_spool_bytes)", "{{instance}}"),
        ),
        over_time("Spans", "short", Query(by("sink,outcome", rate("weft_trace_spans_total")), "{{sink}} {{outcome}}")),
        over_time("Certificates: time left", "s", Query("min by (file) (weft_certificate_expiry_seconds)", "{{file}}")),
        over_time(
            "The facade's connections",
            "short",
            Query("sum(weft_facade_open_connections)", "connections"),
            Query("sum(weft_facade_open_calls)", "calls"),
        ),
        over_time("Bodies that are arriving", "bytes", Query("sum(weft_facade_arriving_bytes)", "bytes")),
        over_time("Facades with a router", "short", Query("sum(weft_facade_router_link_up)", "up")),
    ),
    collapsed=False,
)

ROWS = (TRAFFIC, LATENCY, TOKENS, WORKERS, COLD, LIMITS, SERVICES)
