"""What the configuration must say, whatever its shape. Its syntax is tested in tests/envoy, by the protos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from services.auth.ext_authz import IDENTITY_HEADERS
from services.core.errors import CATALOGUE, Reason
from services.edge.bootstrap import BOOTSTRAP, bootstrap, rendered
from services.edge.config import EnvoyConfig
from services.edge.local_replies import local_replies
from services.edge.writing import as_yaml, texts
from services.facade.config import FacadeConfig
from services.router.config import RouterConfig
from services.rpc.channel import PINGS_MS, SERVER_OPTIONS
from services.runtime.telemetry.config import TracingConfig
from services.runtime.tls import TlsConfig
from tests.unit.edge.shapes import OWN, SHAPES, edge

Plain = dict[str, Any]


def found(plain: Any, key: str) -> Iterator[Any]:
    """Every value of that key, wherever it stands."""
    if isinstance(plain, dict):
        for name, value in plain.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(plain, list):
        for value in plain:
            yield from found(value, key)


def managers(plain: Plain) -> dict[str, Plain]:
    """The HTTP connection managers, by the names of their listeners."""
    listeners = plain["static_resources"]["listeners"]
    return {one["name"]: one["filter_chains"][0]["filters"][0]["typed_config"] for one in listeners}


def clusters(plain: Plain) -> dict[str, Plain]:
    return {one["name"]: one for one in plain["static_resources"]["clusters"]}


def routes(manager: Plain) -> dict[str, Plain]:
    return {route["name"]: route for route in manager["route_config"]["virtual_hosts"][0]["routes"]}


every = pytest.mark.parametrize("shape", SHAPES)


@every
def test_no_timer_cuts_a_stream(shape: str) -> None:
    """Envoy's defaults are 15 s for an answer and 5 min of silence: a cold start takes longer than either."""
    plain = bootstrap(SHAPES[shape])
    never = ("max_stream_duration", "grpc_timeout_header_max", "max_grpc_timeout", "max_connection_duration")
    assert not [value for key in never for value in found(plain, key)]
    assert not list(found(plain, "per_try_timeout"))
    longest = RouterConfig().total_timeout_s
    for manager in managers(plain).values():
        assert float(manager["stream_idle_timeout"].rstrip("s")) > longest
        assert manager["request_timeout"] == "0s"
        for name, route in routes(manager).items():
            if "route" not in route:
                continue
            assert float(route["route"]["idle_timeout"].rstrip("s")) > longest
            assert route["route"]["timeout"] == "0s" or name == "health"


@every
def test_what_waits_in_envoy_is_bounded(shape: str) -> None:
    plain = bootstrap(SHAPES[shape])
    resources = plain["static_resources"]
    for one in (*resources["listeners"], *resources["clusters"]):
        assert one["per_connection_buffer_limit_bytes"] == 1024 * 1024
    for window in found(plain, "initial_stream_window_size"):
        assert window <= 256 * 1024
    monitors = [one["name"] for one in plain["overload_manager"]["resource_monitors"]]
    assert [name.rpartition(".")[2] for name in monitors] == ["global_downstream_max_connections", "fixed_heap"]
    actions = [one["name"] for one in plain["overload_manager"]["actions"]]
    assert "envoy.overload_actions.reset_high_memory_stream" not in actions


def test_one_slow_reader_does_not_stop_the_others() -> None:
    """All streams of a connection to the router may fill their windows, and the connection's is not used up."""
    options = clusters(bootstrap(edge()))["router"]["typed_extension_protocol_options"]
    (windows,) = found(options, "http2_protocol_options")
    many = windows["initial_connection_window_size"] // windows["initial_stream_window_size"]
    assert many >= EnvoyConfig().limits.calls // 2


@every
def test_a_router_or_a_facade_is_never_put_out_for_what_it_answers(shape: str) -> None:
    for name, cluster in clusters(bootstrap(SHAPES[shape])).items():
        # None is healthy: all are tried.
        assert 0 < cluster["common_lb_config"]["healthy_panic_threshold"]["value"] <= 1
        if name == "collector":
            continue
        outliers = cluster["outlier_detection"]
        enforced = {key for key, value in outliers.items() if key.startswith("enforcing") and value}
        assert enforced == {"enforcing_consecutive_local_origin_failure"}
        assert (outliers["split_external_local_origin_errors"], outliers["always_eject_one_host"]) == (True, False)
        assert outliers["max_ejection_percent"] <= 50


@every
def test_nothing_is_tried_again_that_may_have_begun(shape: str) -> None:
    """Not for a status: the router has tried other workers, and says UNAVAILABLE when it has given up."""
    safe = {"connect-failure", "refused-stream", "reset-before-request", "retriable-headers"}
    for policy in found(bootstrap(SHAPES[shape]), "retry_policy"):
        assert set(policy["retry_on"].split(",")) <= safe
        assert [header["name"] for header in policy.get("retriable_headers", ())] in ([], ["weft-not-begun"])


@every
def test_identity_from_outside_is_taken_away_first(shape: str) -> None:
    for name, manager in managers(bootstrap(SHAPES[shape])).items():
        mutations = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
        removed = {one["remove"] for one in mutations if "remove" in one}
        prefixes = {one["remove_on_match"]["key_matcher"]["prefix"] for one in mutations if "remove_on_match" in one}
        for header in (*IDENTITY_HEADERS, "x-forwarded-client-cert", "x-envoy-max-retries"):
            assert header in removed or any(header.startswith(prefix) for prefix in prefixes), (name, header)
        options = manager["common_http_protocol_options"]
        assert options["headers_with_underscores_action"] == "REJECT_REQUEST"
        assert manager["forward_client_cert_details"] in ("SANITIZE", "SANITIZE_SET")


@every
def test_all_but_health_ask_auth(shape: str) -> None:
    for manager in managers(bootstrap(SHAPES[shape])).values():
        names = [one["name"] for one in manager["http_filters"]]
        assert [name.rpartition(".")[2] for name in names] == ["local_ratelimit", "ext_authz", "router"]
        assert manager["http_filters"][1]["typed_config"]["failure_mode_allow"] is False
        open_to_all = {name for name, route in routes(manager).items() if "typed_per_filter_config" in route}
        assert open_to_all == {"health"}


@every
def test_no_key_is_in_it(shape: str) -> None:
    assert not [name for name, text in texts(rendered(SHAPES[shape])).items() if "Bearer " in text]


def test_certificates_become_ids_where_the_router_can_know_them() -> None:
    mutual = managers(bootstrap(SHAPES["mutual"]))
    assert mutual["grpc"]["forward_client_cert_details"] == "SANITIZE_SET"
    assert mutual["grpc"]["set_current_client_cert_details"] == {"uri": True}
    assert mutual["https"]["forward_client_cert_details"] == "SANITIZE"
    listeners = {one["name"]: one for one in bootstrap(SHAPES["mutual"])["static_resources"]["listeners"]}
    assert list(found(listeners["grpc"], "require_client_certificate")) == [True]
    assert list(found(listeners["https"], "require_client_certificate")) == []
    assert "grpc" not in managers(bootstrap(SHAPES["plain"]))
    assert list(found(bootstrap(SHAPES["optional"]), "require_client_certificate")) == [False]
    assert managers(bootstrap(SHAPES["keys"]))["grpc"]["forward_client_cert_details"] == "SANITIZE"


def test_parts_are_known_by_their_ids_and_a_key_is_shown_only_without() -> None:
    mutual, plain = clusters(bootstrap(SHAPES["mutual"])), clusters(bootstrap(SHAPES["plain"]))
    for part in ("router", "auth"):
        assert f"spiffe://weft/weft/{part}" in str(mutual[part]["transport_socket"])
    assert "credential_injector" not in str(mutual)
    assert "credential_injector" in str(plain["auth"])
    assert "credential_injector" not in str(plain["facade"])


def test_routers_bear_being_asked_in_silence_whether_they_are_there() -> None:
    """A gRPC server ends a connection with more pings than it allows, and every call on it."""
    allowed = dict(SERVER_OPTIONS)[PINGS_MS]
    for cluster in clusters(bootstrap(SHAPES["mutual"])).values():
        for keep_alive in found(cluster, "connection_keepalive"):
            assert float(keep_alive["interval"].rstrip("s")) * 1000 > 2 * int(allowed)


@every
def test_what_health_checks_find_counts_at_once(shape: str) -> None:
    for cluster in clusters(bootstrap(SHAPES[shape])).values():
        assert cluster["common_lb_config"]["update_merge_window"] == "0s"


def test_health_is_asked_of_what_serves_calls() -> None:
    checks = {name: one["health_checks"][0] for name, one in clusters(bootstrap(SHAPES["mutual"])).items()}
    assert checks["router"]["grpc_health_check"] == {"service_name": "weft.inference.v1.InferenceService"}
    assert checks["facade"]["http_health_check"] == {"path": "/health"}


def test_a_connection_is_given_up_before_the_facade_closes_it() -> None:
    (idle,) = found(clusters(bootstrap(edge()))["facade"]["typed_extension_protocol_options"], "idle_timeout")
    assert float(idle.rstrip("s")) < FacadeConfig().keep_alive_s


def test_names_are_resolved_and_addresses_are_not() -> None:
    kinds = {name: one["type"] for name, one in clusters(bootstrap(SHAPES["several"])).items()}
    assert kinds == {"facade": "STATIC", "router": "STRICT_DNS", "auth": "STATIC"}


def test_spans_go_to_a_collector_that_envoy_can_speak_to() -> None:
    def sends(**settings: Any) -> bool:
        return "collector" in clusters(bootstrap(edge(tracing=TracingConfig(**settings))))

    assert sends(endpoint="http://127.0.0.1:4317")
    assert not sends()
    assert not sends(endpoint="http://127.0.0.1:4318", protocol="http")
    assert not sends(endpoint="https://otel.example.org", headers_file="collector.headers")
    traced = managers(bootstrap(SHAPES["traced"]))
    assert [manager["tracing"]["random_sampling"] for manager in traced.values()] == [{"value": 50.0}] * 2
    assert "tracing" not in managers(bootstrap(SHAPES["mutual"]))["https"]


def test_envoys_own_answers_have_the_catalogues_words() -> None:
    replies = local_replies(edge())
    bodies = [mapper["body"]["inline_string"] for mapper in replies["mappers"] if "body" in mapper]
    shapes = Counter(json.loads(body).get("type", "openai") for body in bodies)
    assert shapes == {"error": 8, "openai": 12}  # Anthropic's, where the path is known
    assert all(CATALOGUE[Reason.AUTH_UNAVAILABLE].sentence in body for body in bodies[:2])
    assert not [body for body in bodies if "%" in body]  # Envoy would fill it in


@every
def test_yaml_without_aliases_in_a_steady_order(shape: str) -> None:
    for name, plain in rendered(SHAPES[shape]).items():
        text = as_yaml(plain)
        assert yaml.safe_load(text) == plain, name
        assert text == as_yaml(rendered(SHAPES[shape])[name])
        assert not [line for line in text.splitlines() if line.lstrip(" -").startswith(("*", "&")) or ": &" in line]


def test_files_are_the_homes() -> None:
    texts_of = texts(rendered(edge(EnvoyConfig(**OWN), TlsConfig())))
    assert set(texts_of) == {BOOTSTRAP, "sds/front.yaml"}
    assert "filename: /var/lib/weft/front.pem" in texts_of["sds/front.yaml"]
    assert "/var/lib/weft/envoy/sds/front.yaml" in texts_of[BOOTSTRAP]
