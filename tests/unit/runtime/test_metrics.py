"""The page of metrics of a process, as Prometheus reads it."""

import socket
import urllib.request
from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.core.measures import Counts, Family, Histograms, gauge, gauges
from services.runtime.metrics import MetricsAddressError, serving_metrics
from services.runtime.service_metrics import show_service


def read(address: str) -> dict[str, tuple[str, str, dict[tuple[str, ...], float]]]:
    """Kind, meaning and samples of each family, the samples by name and label values."""
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a name stands twice, which Prometheus refuses"
    return {
        family.name: (
            family.type,
            family.documentation,
            {(sample.name, *sample.labels.values()): sample.value for sample in family.samples},
        )
        for family in families
    }


def test_each_kind_is_shown_as_prometheus_has_it() -> None:
    counts, spread = Counts("some_total", "Some.", ("why",)), Histograms("some_seconds", "Seconds.", bounds=(0.5, 1.0))
    counts.at('a "b"\n').value += 3
    for value in (0.2, 0.7, 9.0):
        spread.at().observe(value)

    def source() -> Iterable[Family]:
        return (counts.family(), spread.family(), gauge("some_calls", "Calls.", 4))

    with serving_metrics("127.0.0.1", 0) as served:
        assert served.page is not None
        served.page.add(source)
        families = read(served.address)
    assert families["some"] == ("counter", "Some.", {("some_total", 'a "b"\n'): 3})
    assert families["some_calls"] == ("gauge", "Calls.", {("some_calls",): 4})
    kind, meaning, samples = families["some_seconds"]
    assert (kind, meaning) == ("histogram", "Seconds.")
    assert samples == {
        ("some_seconds_bucket", "0.5"): 1,
        ("some_seconds_bucket", "1.0"): 2,
        ("some_seconds_bucket", "+Inf"): 3,
        ("some_seconds_count",): 3,
        ("some_seconds_sum",): 9.9,
    }


def test_services_of_one_process_share_a_page() -> None:
    with serving_metrics("127.0.0.1", 0) as served:
        for service in ("auth", "registry"):
            show_service(served.page, service)
        _, _, samples = read(served.address)["weft_build_info"]
    assert [("auth" in labels, "registry" in labels) for labels in samples] == [(True, False), (False, True)]


def test_what_cannot_be_shown_hides_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterable[Family]:
        yield gauges("broken", "Broken.", (), [])
        raise RuntimeError("dictionary changed size during iteration")

    with serving_metrics("127.0.0.1", 0) as served:
        assert served.page is not None
        served.page.add(broken)
        served.page.add(lambda: (gauge("well", "Well.", 1),))
        families = read(served.address)
    assert "well" in families
    assert "broken" not in families
    assert "some metrics cannot be shown" in caplog.text


def test_a_page_is_gone_with_its_process() -> None:
    with serving_metrics("127.0.0.1", 0) as served:
        assert served.page is not None
        served.page.add(lambda: (gauge("former", "Former.", 1),))
    with serving_metrics("127.0.0.1", 0) as served:
        assert "former" not in read(served.address)


def test_without_a_port_there_is_no_page_and_nothing_counts() -> None:
    with serving_metrics("127.0.0.1", None) as served:
        assert (served.address, served.page) == ("", None)
        assert show_service(served.page, "auth") is None


def test_a_port_that_is_taken_is_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MetricsAddressError, match=r"set 'metrics\.port'"), serving_metrics("127.0.0.1", port):
            pass
