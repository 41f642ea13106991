"""A process's own `/metrics`, for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import msgspec
import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from services.core.measures import Family, Kind, Page, Spread

log = logging.getLogger(__name__)


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `metrics`."""

    host: str = "127.0.0.1"
    port: int | None = 9100
    """The first port: the router's. Registry, auth, facade and launcher follow. 0 takes any free port, null serves no
    metrics, and then nothing is counted either.
    """


class MetricsAddressError(Exception):
    """Cannot listen there; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ServedMetrics:
    """Where `/metrics` is, and the page that services put theirs on; empty and None where there is none."""

    address: str = ""
    page: Page | None = None


@contextmanager
def serving_metrics(host: str, port: int | None) -> Iterator[ServedMetrics]:
    """Serves `/metrics` on a thread of its own; nothing where there is no port. Raises `MetricsAddressError`."""
    if port is None:
        yield ServedMetrics()
        return
    page = Page()
    shown = _Shown(page)
    # A series beside each counter, of when it began: Prometheus reads none of them.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        server, thread = prometheus_client.start_http_server(port, host)
    except OSError as error:
        raise MetricsAddressError(
            f"Cannot serve metrics on {host}:{port}: {error.strerror}; set 'metrics.port' to another, or to null."
        ) from error
    prometheus_client.REGISTRY.register(shown)
    try:
        yield ServedMetrics(f"{host}:{server.server_port}", page)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        prometheus_client.REGISTRY.unregister(shown)


class _Shown(Collector):
    """A page, as prometheus_client asks for it: at each scrape, in its own thread."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def describe(self) -> Iterable[Metric]:
        """None: what a page has is not known before it is asked, and asking takes the services' state."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What all sources give, the rows of one name together, as Prometheus refuses a name that comes twice."""
        metrics: dict[str, Metric] = {}
        for source in self._page.sources:
            try:
                families = tuple(source())
            except Exception:
                log.exception("some metrics cannot be shown")  # the others can, and tell more than an empty page
                continue
            for family in families:
                metric = metrics.get(family.name)
                if metric is None:
                    metric = metrics[family.name] = _KINDS[family.kind](
                        family.name, family.meaning, labels=family.labels
                    )
                _add(metric, family)
        yield from metrics.values()


_KINDS = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


def _add(metric: Metric, family: Family) -> None:
    for labels, value in family.rows:
        if isinstance(value, Spread) and isinstance(metric, HistogramMetricFamily):
            metric.add_metric(labels, buckets=_buckets(value), sum_value=value.total)
        elif isinstance(metric, CounterMetricFamily | GaugeMetricFamily) and not isinstance(value, Spread):
            metric.add_metric(labels, value)


def _buckets(spread: Spread) -> list[tuple[str, float]]:
    """Cumulative, each with its upper bound as Prometheus writes it."""
    bounds = [*map(floatToGoString, spread.bounds), "+Inf"]
    return list(zip(bounds, accumulate(spread.counts), strict=True))
