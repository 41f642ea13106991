"""What a resource must be like to be taken in. Each complaint names the field and says what it must be."""

from __future__ import annotations

import re

from weft.registry.v1 import resources_pb2

from services.core.names import ID_RULE, check
from services.registry.access_rules import check_access, check_limits
from services.registry.globus_rules import check_function, check_globus, check_reference
from services.registry.rules import ID, MAX_WORD, bounded, check_each, check_text, check_url, check_word, refuse
from services.registry.tables import Resource

_OPERATION = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_resource(resource: Resource, param: str) -> None:
    """Raises ARGUMENT_INVALID for the first field that is wrong, named as a path that begins with `param`."""
    if isinstance(resource, resources_pb2.Cluster):
        _check_cluster(resource, param)
    elif isinstance(resource, resources_pb2.Endpoint):
        _check_endpoint(resource, param)
    elif isinstance(resource, resources_pb2.Route):
        _check_route(resource, param)
    else:
        check_function(resource, param)
        _check_labels(resource, param)


def _check_cluster(cluster: resources_pb2.Cluster, param: str) -> None:
    check("cluster", cluster.name, param=f"{param}.name")
    _check_common(cluster, param)
    check_text(cluster.notice, f"{param}.notice")
    _check_availability(cluster.availability, f"{param}.availability")
    check_each(cluster.frameworks, ID, ID_RULE, f"{param}.frameworks")
    check_each(cluster.operations, _OPERATION, "a path without its '/v1/', 'chat/completions'", f"{param}.operations")
    if cluster.HasField("queue_status"):
        check_reference(cluster.queue_status, f"{param}.queue_status")
    if cluster.status_url:
        check_url(cluster.status_url, f"{param}.status_url", query=True)


def _check_endpoint(endpoint: resources_pb2.Endpoint, param: str) -> None:
    check("endpoint", endpoint.name, param=f"{param}.name")
    _check_common(endpoint, param)
    check_text(endpoint.notice, f"{param}.notice")
    _check_availability(endpoint.availability, f"{param}.availability")
    if endpoint.framework and ID.fullmatch(endpoint.framework) is None:
        refuse(f"{param}.framework", f"must be {ID_RULE}; 'vllm' or 'api', for instance")
    _check_bindings(endpoint, f"{param}.models")
    match endpoint.WhichOneof("backend"):
        case "http":
            _check_http(endpoint.http, f"{param}.http")
        case "globus":
            if not endpoint.models:
                refuse(f"{param}.models", "must name at least one model, as a Globus endpoint reports none")
            check_globus(endpoint.globus, f"{param}.globus")
        case None:
            refuse(param, "needs a backend: set 'session', 'http' or 'globus'")


def _check_bindings(endpoint: resources_pb2.Endpoint, param: str) -> None:
    seen: set[str] = set()
    for index, binding in enumerate(bounded(endpoint.models, param)):
        check_word(binding.model, f"{param}[{index}].model")
        if len(binding.served_model) > MAX_WORD:
            refuse(f"{param}[{index}].served_model", f"must have at most {MAX_WORD} characters")
        if binding.model in seen:
            refuse(f"{param}[{index}].model", f"names {binding.model!r} a second time; name each model once")
        seen.add(binding.model)


def _check_http(http: resources_pb2.HttpBackend, param: str) -> None:
    check_url(http.url, f"{param}.url")
    if http.api_key_file and http.api_key_env:
        refuse(f"{param}.api_key_env", "cannot be set together with 'api_key_file'; set one of them")
    if len(http.api_key_file) > MAX_WORD or "\0" in http.api_key_file:
        refuse(f"{param}.api_key_file", f"must be a path of at most {MAX_WORD} characters")
    if http.api_key_env and _VARIABLE.fullmatch(http.api_key_env) is None:
        refuse(f"{param}.api_key_env", "must be the name of an environment variable, not the key itself")
    if http.HasField("timeout") and http.timeout.ToNanoseconds() <= 0:
        refuse(f"{param}.timeout", "must be more than 0 s; leave it out to have the router's own")


def _check_route(route: resources_pb2.Route, param: str) -> None:
    check("route", route.name, param=f"{param}.name")
    _check_common(route, param)
    check_word(route.model, f"{param}.model")
    check_text(route.description, f"{param}.description")
    seen: set[tuple[str, str]] = set()
    if not route.targets:
        refuse(f"{param}.targets", "must name at least one endpoint")
    for index, target in enumerate(bounded(route.targets, f"{param}.targets")):
        where = f"{param}.targets[{index}]"
        check("endpoint", target.endpoint, param=f"{where}.endpoint")
        if target.model:
            check_word(target.model, f"{where}.model")
        if (target.endpoint, target.model) in seen:
            refuse(where, f"names '{target.endpoint}' a second time; name each target once")
        seen.add((target.endpoint, target.model))


def _check_common(resource: resources_pb2.Cluster | resources_pb2.Endpoint | resources_pb2.Route, param: str) -> None:
    if len(resource.display_name) > MAX_WORD:
        refuse(f"{param}.display_name", f"must have at most {MAX_WORD} characters")
    _check_labels(resource, param)
    check_access(resource.access, f"{param}.access")
    check_limits(resource.limits, f"{param}.limits")


def _check_labels(resource: Resource, param: str) -> None:
    for key, value in resource.labels.items():
        if not key or len(key) > MAX_WORD or len(value) > MAX_WORD:
            refuse(f"{param}.labels", f"must have keys and values of at most {MAX_WORD} characters, and no empty key")


def _check_availability(availability: int, param: str) -> None:
    if availability not in resources_pb2.Availability.values():
        refuse(param, "must be ACTIVE, DRAINING or MAINTENANCE")
