"""Every wrong field is named, with its remedy."""

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from weft.registry.v1 import resources_pb2

from services.core.errors import Reason, ServiceError
from services.registry.validation import MAX_ITEMS, MAX_TEXT, MAX_WORD, check_resource

SESSION = {"name": "clusters/c/endpoints/e", "session": {}}
HTTP = {"name": "clusters/c/endpoints/e", "http": {"url": "http://gpu7:8000"}}
GLOBUS = {
    "name": "clusters/c/endpoints/e",
    "models": [{"model": "m"}],
    "globus": {"inference": {"endpoint_uuid": "your-endpoint-uuid", "function_uuid": "f"}, "api_port": 8000},
}
ROUTE = {"name": "routes/r", "model": "m", "targets": [{"endpoint": "clusters/c/endpoints/e"}]}
CLUSTER = {"name": "clusters/c"}


def endpoint(fields: dict[str, Any]) -> resources_pb2.Endpoint:
    return ParseDict(fields, resources_pb2.Endpoint())


@pytest.mark.parametrize("fields", [SESSION, HTTP, GLOBUS, {**SESSION, "models": [{"model": "a b/é"}]}])
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
        ({**GLOBUS, "globus": {}}, "globus.inference.endpoint_uuid"),
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
        ({**CLUSTER, "queue_status": {"endpoint_uuid": "e"}}, "queue_status.function_uuid"),
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


def complains(resource: Any, kind: str, param: str) -> None:
    with pytest.raises(ServiceError) as caught:
        check_resource(resource, kind)
    assert caught.value.reason is Reason.ARGUMENT_INVALID
    assert caught.value.param == (f"{kind}.{param}" if param else kind)
    assert f"'{caught.value.param}'" in caught.value.message
    assert "sk-abc" not in caught.value.message
