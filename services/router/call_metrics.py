"""What the router counts of calls, from the record that each leaves. Labels come from bounded sets: a client cannot
make new series by inventing names.

Names are those of OpenTelemetry's gen_ai conventions where these have one, with underscores for dots, and so are the
buckets, which go on to what cold starts and long answers take:
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterable
from typing import Final

from services.core import gen_ai
from services.core.errors import CATALOGUE, ServiceError
from services.core.measures import OTHER, Bounded, Count, Counts, Family, Histogram, Histograms
from services.router.operations import VLLM_EXTRAS
from services.router.usage_log import CallRecord

MOST_ROUTES: Final = 200
MOST_ENDPOINTS: Final = 500
"""Names that have series of their own; all others share one."""

_TOGETHER: Final = 64
"""Calls that are counted at once. One by one, between a call and the next, each would find the caches without this code
and these numbers, and take three times as long.
"""

_OPERATIONS: Final = {
    operation: gen_ai.operation_name(operation)
    for operation in (*gen_ai.OPERATIONS, *VLLM_EXTRAS, "/v1/messages/count_tokens", "/v1/rerank", "/v1/score")
}
_FAULTS: Final = {
    **{reason.name.lower(): "mesh" if kind.http >= 500 else "caller" for reason, kind in CATALOGUE.items()},
    "cancelled": "none",
    "upstream_4xx": "caller",
    "upstream_5xx": "mesh",
}
_SECONDS: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36, 1310.72, 2621.44),
)
_FIRST_SECONDS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 600.0),
)
_SECONDS_A_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS: Final = tuple(4**power for power in range(14))
_CALL: Final = ("operation", "route", "endpoint")
_GEN_AI: Final = ("gen_ai_operation_name", "gen_ai_request_model", "endpoint")


class _Answers:
    """What there is of the answers to one operation and route by one endpoint."""

    __slots__ = ("cached", "duration", "estimated", "first_token", "input", "output", "token")

    def __init__(self, metrics: CallMetrics, labels: tuple[str, str, str]) -> None:
        self.duration: Histogram = metrics.duration.at(*labels)
        self.first_token: Histogram = metrics.first_token.at(*labels)
        self.token: Histogram = metrics.token.at(*labels)
        self.input: Histogram = metrics.tokens.at(*labels, "input")
        self.output: Histogram = metrics.tokens.at(*labels, "output")
        self.cached: Count = metrics.cached.at(*labels)
        self.estimated: Count = metrics.estimated.at(*labels)


class _Series:
    """All that there is of one operation, route and endpoint: one look into a dictionary finds it."""

    __slots__ = ("answers", "labels", "outcomes")

    def __init__(self, labels: tuple[str, str, str]) -> None:
        self.labels = labels
        self.outcomes: dict[str, Count] = {}
        self.answers: _Answers | None = None


class CallMetrics:
    """Notes calls that have ended. `models` gives the public names that are known now, `endpoints` those of the
    endpoints: only these become labels.
    """

    def __init__(self, models: Callable[[], Container[str]], endpoints: Callable[[], Container[str]]) -> None:
        self._models = models
        self._endpoints = endpoints
        self._routes = Bounded(MOST_ROUTES)
        self._places = Bounded(MOST_ENDPOINTS)
        self._found: dict[tuple[str, str, str], _Series] = {}
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._ended: deque[CallRecord] = deque()
        self._counting = threading.Lock()
        self._calls = Counts(
            "weft_router_calls_total",
            "Calls of known callers that ended, by how. A fault of the caller is a refusal, or a 4xx of the model "
            "server; one of the mesh is a 5xx, of its own or of the model server; a caller who leaves is none.",
            (*_CALL, "outcome", "fault"),
        )
        self.duration = Histograms(
            "gen_ai_server_request_duration_seconds",
            "From when a call's caller is known to the last byte of its answer, for those that were answered whole.",
            _GEN_AI,
            bounds=_SECONDS,
        )
        self.first_token = Histograms(
            "gen_ai_server_time_to_first_token_seconds",
            "From when a call's caller is known to the first byte of its answer's body, for streamed answers; the "
            "wait for a worker is in it.",
            _GEN_AI,
            bounds=_FIRST_SECONDS,
        )
        self.token = Histograms(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens after the first one, for streamed answers that came whole.",
            _GEN_AI,
            bounds=_SECONDS_A_TOKEN,
        )
        self.tokens = Histograms(
            "gen_ai_client_token_usage",
            "Tokens of calls, as their model servers counted them; estimates are not in it.",
            (*_GEN_AI, "gen_ai_token_type"),
            bounds=_TOKENS,
        )
        self.cached = Counts(
            "weft_router_cached_tokens_total", "Input tokens that model servers had in their prefix caches.", _CALL
        )
        self.estimated = Counts(
            "weft_router_estimated_calls_total",
            "Calls whose tokens no model server told, and that were estimated.",
            _CALL,
        )
        self._retries = Counts(
            "weft_router_retries_total",
            "Attempts that failed before the first byte, after which the call looked for another worker, by why.",
            ("endpoint", "reason"),
        )
        self._stalls = Counts(
            "weft_router_credit_stalls_total",
            "How often an answer stood still because its client had no room for more.",
            ("endpoint",),
        )
        self._turned_away = Counts(
            "weft_router_turned_away_total",
            "Calls that were refused before their caller was known, by why.",
            ("reason",),
        )

    def record(self, call: CallRecord) -> None:
        """Notes a call that has ended. It is counted with others, at the latest when somebody looks."""
        self._ended.append(call)
        if len(self._ended) >= _TOGETHER:
            self._count_all()

    def _count_all(self) -> None:
        with self._counting:  # the loop, or the thread of `/metrics`
            while self._ended:
                self._count(self._ended.popleft())

    def _count(self, call: CallRecord) -> None:
        series = self._found.get((call.operation, call.model, call.endpoint)) or self._find(call)
        outcome, status = call.outcome, call.status
        if status >= 400 and outcome == "ok":
            outcome = "upstream_5xx" if status >= 500 else "upstream_4xx"
        count = series.outcomes.get(outcome) or self._outcome(series, outcome)
        count.value += 1
        if call.first_byte is not None and status < 400:
            answers = series.answers
            if answers is None:
                answers = series.answers = _Answers(self, series.labels)
            _note(answers, call, call.first_byte, whole=outcome == "ok")

    def retried(self, endpoint: str, error: ServiceError) -> None:
        """See `CallMeter.retried`."""
        self._retries.at(self._endpoint(endpoint), error.reason.name.lower()).value += 1

    def stalled(self, endpoint: str) -> None:
        """See `CallMeter.stalled`."""
        self._stalls.at(self._endpoint(endpoint)).value += 1

    def turned_away(self, error: ServiceError) -> None:
        """A call without a record has been refused."""
        self._turned_away.at(error.reason.name.lower()).value += 1

    def route(self, model: str) -> str:
        """The label that stands for a model that somebody has named."""
        return self._routes.label(model) if model in self._routes or model in self._models() else OTHER

    def families(self) -> Iterable[Family]:
        """What there is to show."""
        self._count_all()
        shown = (self._calls, self.duration, self.first_token, self.token, self.tokens, self.cached, self.estimated)
        return [one.family() for one in (*shown, self._retries, self._stalls, self._turned_away)]

    def _find(self, call: CallRecord) -> _Series:
        operation = _OPERATIONS.get(call.operation, OTHER)
        labels = (operation, self.route(call.model), self._endpoint(call.endpoint))
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Series(labels)
        if operation != OTHER and labels[1:] == (call.model, call.endpoint):
            self._found[call.operation, call.model, call.endpoint] = series  # bounded, as the labels are
        return series

    def _outcome(self, series: _Series, outcome: str) -> Count:
        count = series.outcomes[outcome] = self._calls.at(*series.labels, outcome, _FAULTS.get(outcome, "none"))
        return count

    def _endpoint(self, name: str) -> str:
        """Empty for a call that never had one."""
        if not name:
            return ""
        return self._places.label(name) if name in self._places or name in self._endpoints() else OTHER


def _note(answers: _Answers, call: CallRecord, first_byte: float, *, whole: bool) -> None:
    started, ended = call.started, call.ended
    if not started <= first_byte <= ended:
        return  # The clock was set back meanwhile, and a sum that falls looks like a restart.
    if whole:
        answers.duration.observe(ended - started)
    if call.streamed:
        answers.first_token.observe(first_byte - started)
    if call.estimated:
        answers.estimated.value += 1
        return
    output = call.output_tokens
    if output:
        answers.output.observe(output)
        if whole and call.streamed and output > 1:
            answers.token.observe((ended - first_byte) / (output - 1))
    if call.input_tokens:
        answers.input.observe(call.input_tokens)
        answers.cached.value += call.cached_tokens
