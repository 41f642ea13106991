"""Every wrong field is named, with its remedy."""

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from weft.registry.v1 import resources_pb2

from services.core.errors import Reason, ServiceError
from services.registry.globus_rules import MAX_CONFIG, MAX_WORKERS
from services.registry.rules import MAX_ITEMS, MAX_TEXT, MAX_WORD
from services.registry.validation import check_resource

SESSION = {"name": "clusters/c/endpoints/e", "session": {}}
HTTP = {"name": "clusters/c/endpoints/e", "http": {"url": "http://gpu7:8000"}}
GLOBUS = {
    "name": "clusters/c/endpoints/e",
    "models": [{"model": "m"}],
    "globus": {"inference": {"endpoint_uuid": "your-endpoint-uuid", "function_uuid": "f"}, "api_port": 8000},
}
LAUNCH: dict[str, Any] = {"start_worker": {"endpoint_uuid": "e"}}
FUNCTION: dict[str, Any] = {
    "name": "functions/probe",
    "versions": [
        {"uuid": "two", "sha256": "b" * 64, "register_time": "2026-02-01T00:00:00Z"},
        {"uuid": "one", "sha256": "a" * 64, "register_time": "2026-01-01T00:00:00Z"},
    ],
}
ROUTE = {"name": "routes/r", "model": "m", "targets": [{"endpoint": "clusters/c/endpoints/e"}]}
CLUSTER = {"name": "clusters/c"}


def endpoint(fields: dict[str, Any]) -> resources_pb2.Endpoint:
    return ParseDict(fields, resources_pb2.Endpoint())


def launched(**launch: Any) -> dict[str, Any]:
    """An endpoint of Globus Compute that is started with these fields beside the needed one."""
    return {**GLOBUS, "globus": {"launch": {**LAUNCH, **launch}}}


@pytest.mark.parametrize(
    "fields",
    [
        SESSION,
        HTTP,
        GLOBUS,
        {**SESSION, "models": [{"model": "a b/é"}]},
        {**GLOBUS, "globus": {"inference": {"endpoint_uuid": "e"}}},
        {**GLOBUS, "globus": {"launch": LAUNCH, "call_mode": "CALL_MODE_SESSION", "credentials": "anl"}},
        launched(min_workers=1),
        launched(min_workers=2, max_workers=2, calls_per_worker=8, idle_time="600s", keep_warm=True),
        launched(walltime="3600s", replace_before="900s", queue_time="86400s", serves="users/ada@example.org"),
        launched(routers=["10.0.0.1:7000", "https://weft.example.org", "https://w:443", "[::1]:7000"]),
        launched(user_endpoint_config={"queue": "by-gpu", "nodes": 2, "extra": {"list": [1.5, None, True]}}),
    ],
)
def test_good_endpoints(fields: dict[str, Any]) -> None:
    check_resource(endpoint(fields), "endpoint")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({**SESSION, "name": "clusters/c"}, "name"),
        ({**SESSION, "name": "clusters/C/endpoints/e"}, "name"),
        ({"name": SESSION["name"]}, ""),
        ({**SESSION, "framework": "v llm"}, "framework"),
        ({**SESSION, "availability": 9}, "availability"),
        ({**SESSION, "notice": "x" * (MAX_TEXT + 1)}, "notice"),
        ({**SESSION, "display_name": "x" * (MAX_WORD + 1)}, "display_name"),
        ({**SESSION, "labels": {"": "x"}}, "labels"),
        ({**SESSION, "models": [{"model": ""}]}, "models[0].model"),
        ({**SESSION, "models": [{"model": "a\nb"}]}, "models[0].model"),
        ({**SESSION, "models": [{"model": "a"}, {"model": "a"}]}, "models[1].model"),
        ({**SESSION, "models": [{"model": f"m{i}"} for i in range(MAX_ITEMS + 1)]}, "models"),
        ({**SESSION, "access": {"allowed_domains": ["a", ""]}}, "access.allowed_domains[1]"),
        ({**HTTP, "http": {"url": ""}}, "http.url"),
        ({**HTTP, "http": {"url": "gpu7:8000"}}, "http.url"),
        ({**HTTP, "http": {"url": "ftp://gpu7"}}, "http.url"),
        ({**HTTP, "http": {"url": "http://"}}, "http.url"),
        ({**HTTP, "http": {"url": "http://gpu7:99999"}}, "http.url"),
        ({**HTTP, "http": {"url": "http://[gpu7"}}, "http.url"),
        ({**HTTP, "http": {"url": "http://gpu 7"}}, "http.url"),
        ({**HTTP, "http": {"url": "http://a:b@gpu7"}}, "http.url"),
        ({**HTTP, "http": {"url": "http://gpu7/?key=x"}}, "http.url"),
        ({**HTTP, "http": {"url": "http://gpu7/#x"}}, "http.url"),
        ({**HTTP, "http": {"url": "http://g", "api_key_env": "sk-abc"}}, "http.api_key_env"),
        ({**HTTP, "http": {"url": "http://g", "api_key_env": "A", "api_key_file": "/b"}}, "http.api_key_env"),
        ({**HTTP, "http": {"url": "http://g", "timeout": "0s"}}, "http.timeout"),
        ({**GLOBUS, "models": []}, "models"),
        ({**GLOBUS, "globus": {}}, "globus"),
        ({**GLOBUS, "globus": {"inference": {}}}, "globus.inference.endpoint_uuid"),
        ({**GLOBUS, "globus": {"launch": {}}}, "globus.launch.start_worker.endpoint_uuid"),
        ({**GLOBUS, "globus": {"launch": LAUNCH, "call_mode": 9}}, "globus.call_mode"),
        ({**GLOBUS, "globus": {**GLOBUS["globus"], "call_mode": "CALL_MODE_SESSION"}}, "globus.call_mode"),  # type: ignore[dict-item]
        ({**GLOBUS, "globus": {"launch": LAUNCH, "credentials": "sk-abc X"}}, "globus.credentials"),
        (launched(min_workers=2), "globus.launch.min_workers"),
        (launched(min_workers=3, max_workers=2), "globus.launch.min_workers"),
        (launched(max_workers=MAX_WORKERS + 1), "globus.launch.max_workers"),
        (launched(idle_time="0s"), "globus.launch.idle_time"),
        (launched(walltime="-1s"), "globus.launch.walltime"),
        (launched(queue_time="0.5s"), "globus.launch.queue_time"),
        (launched(replace_before="0s"), "globus.launch.replace_before"),
        (launched(walltime="60s", replace_before="60s"), "globus.launch.replace_before"),
        (launched(routers=["r:7000", "r"]), "globus.launch.routers[1]"),
        (launched(routers=["http://r:7000"]), "globus.launch.routers[0]"),
        (launched(routers=["r:0"]), "globus.launch.routers[0]"),
        (launched(routers=["r:65536"]), "globus.launch.routers[0]"),
        (launched(routers=["https://r/path"]), "globus.launch.routers[0]"),
        (launched(routers=["r:7000", "r:7000"]), "globus.launch.routers[1]"),
        (launched(serves="ada"), "globus.launch.serves"),
        (launched(serves="users/"), "globus.launch.serves"),
        (launched(serves="workers/w"), "globus.launch.serves"),
        (launched(user_endpoint_config={"weft_slot": 1}), "globus.launch.user_endpoint_config"),
        (launched(user_endpoint_config={"": 1}), "globus.launch.user_endpoint_config"),
        (launched(user_endpoint_config={"a": "x" * MAX_CONFIG}), "globus.launch.user_endpoint_config"),
        ({**GLOBUS, "globus": {**GLOBUS["globus"], "api_port": 65536}}, "globus.api_port"),  # type: ignore[dict-item]
        ({**GLOBUS, "globus": {**GLOBUS["globus"], "batch": {}}}, "globus.batch.endpoint_uuid"),  # type: ignore[dict-item]
    ],
)
def test_bad_endpoints(fields: dict[str, Any], param: str) -> None:
    complains(endpoint(fields), "endpoint", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "clusters/"}, "name"),
        ({**CLUSTER, "frameworks": ["vllm", "vllm"]}, "frameworks[1]"),
        ({**CLUSTER, "frameworks": ["VLLM"]}, "frameworks[0]"),
        ({**CLUSTER, "operations": ["/v1/chat"]}, "operations[0]"),
        ({**CLUSTER, "queue_status": {"function_uuid": "f"}}, "queue_status.endpoint_uuid"),
        ({**CLUSTER, "queue_status": {"endpoint_uuid": "e", "function_uuid": " f"}}, "queue_status.function_uuid"),
        ({**CLUSTER, "status_url": "status"}, "status_url"),
    ],
)
def test_bad_clusters(fields: dict[str, Any], param: str) -> None:
    complains(ParseDict(fields, resources_pb2.Cluster()), "cluster", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({**ROUTE, "name": "routes/A"}, "name"),
        ({**ROUTE, "model": " m"}, "model"),
        ({**ROUTE, "targets": []}, "targets"),
        ({**ROUTE, "targets": [{"endpoint": "e"}]}, "targets[0].endpoint"),
        ({**ROUTE, "targets": ROUTE["targets"] * 2}, "targets[1]"),  # type: ignore[operator]
        ({**ROUTE, "description": "x" * (MAX_TEXT + 1)}, "description"),
    ],
)
def test_bad_routes(fields: dict[str, Any], param: str) -> None:
    complains(ParseDict(fields, resources_pb2.Route()), "route", param)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks(number: float) -> None:
    wrong = endpoint(launched())
    wrong.globus.launch.user_endpoint_config.update({"deep": {"list": [1, number]}})
    complains(wrong, "endpoint", "globus.launch.user_endpoint_config")


def test_good_functions() -> None:
    check_resource(ParseDict(FUNCTION, resources_pb2.Function()), "function")
    check_resource(ParseDict({"name": "functions/probe"}, resources_pb2.Function()), "function")


def version(**fields: Any) -> dict[str, Any]:
    return {**FUNCTION, "versions": [{**FUNCTION["versions"][0], **fields}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({**FUNCTION, "name": "functions/Probe"}, "name"),
        ({**FUNCTION, "labels": {"": "x"}}, "labels"),
        ({**FUNCTION, "versions": FUNCTION["versions"][::-1]}, "versions"),
        ({**FUNCTION, "versions": FUNCTION["versions"][:1] * 2}, "versions[1].uuid"),
        (version(uuid=""), "versions[0].uuid"),
        (version(sha256="B" * 64), "versions[0].sha256"),
        (version(register_time=None), "versions[0].register_time"),
        (version(ha_endpoint_uuid=" h"), "versions[0].ha_endpoint_uuid"),
    ],
)
def test_bad_functions(fields: dict[str, Any], param: str) -> None:
    complains(ParseDict(fields, resources_pb2.Function()), "function", param)


def complains(resource: Any, kind: str, param: str) -> None:
    with pytest.raises(ServiceError) as caught:
        check_resource(resource, kind)
    assert caught.value.reason is Reason.ARGUMENT_INVALID
    assert caught.value.param == (f"{kind}.{param}" if param else kind)
    assert f"'{caught.value.param}'" in caught.value.message
    assert "sk-abc" not in caught.value.message
