"""What a resource must be like to be taken in. Each complaint names the field and says what it must be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NoReturn, TypeVar
from urllib.parse import urlsplit

from weft.registry.v1 import resources_pb2

from services.core.errors import Reason, ServiceError
from services.core.names import ID_RULE, check
from services.registry.tables import Resource

_Item = TypeVar("_Item")

MAX_TEXT: Final = 10_000
"""Characters of a sentence or a description."""
MAX_WORD: Final = 500
"""Characters of a model's name, a URL, a label."""
MAX_ITEMS: Final = 1000
"""Items of a list."""

_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_OPERATION = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_resource(resource: Resource, param: str) -> None:
    """Raises ARGUMENT_INVALID for the first field that is wrong, named as a path that begins with `param`."""
    if isinstance(resource, resources_pb2.Cluster):
        _check_cluster(resource, param)
    elif isinstance(resource, resources_pb2.Endpoint):
        _check_endpoint(resource, param)
    else:
        _check_route(resource, param)


def _check_cluster(cluster: resources_pb2.Cluster, param: str) -> None:
    check("cluster", cluster.name, param=f"{param}.name")
    _check_common(cluster, param)
    _check_text(cluster.notice, f"{param}.notice")
    _check_availability(cluster.availability, f"{param}.availability")
    _check_each(cluster.frameworks, _ID, ID_RULE, f"{param}.frameworks")
    _check_each(cluster.operations, _OPERATION, "a path without its '/v1/', 'chat/completions'", f"{param}.operations")
    if cluster.HasField("queue_status"):
        _check_function(cluster.queue_status, f"{param}.queue_status")
    if cluster.status_url:
        _check_url(cluster.status_url, f"{param}.status_url", query=True)


def _check_endpoint(endpoint: resources_pb2.Endpoint, param: str) -> None:
    check("endpoint", endpoint.name, param=f"{param}.name")
    _check_common(endpoint, param)
    _check_text(endpoint.notice, f"{param}.notice")
    _check_availability(endpoint.availability, f"{param}.availability")
    if endpoint.framework and _ID.fullmatch(endpoint.framework) is None:
        _refuse(f"{param}.framework", f"must be {ID_RULE}; 'vllm' or 'api', for instance")
    _check_bindings(endpoint, f"{param}.models")
    match endpoint.WhichOneof("backend"):
        case "http":
            _check_http(endpoint.http, f"{param}.http")
        case "globus":
            _check_globus(endpoint, f"{param}.globus")
        case None:
            _refuse(param, "needs a backend: set 'session', 'http' or 'globus'")
    for field in ("allowed_globus_groups", "allowed_domains"):
        for index, value in enumerate(_bounded(getattr(endpoint.access, field), f"{param}.access.{field}")):
            _check_word(value, f"{param}.access.{field}[{index}]")


def _check_bindings(endpoint: resources_pb2.Endpoint, param: str) -> None:
    seen: set[str] = set()
    for index, binding in enumerate(_bounded(endpoint.models, param)):
        _check_word(binding.model, f"{param}[{index}].model")
        if len(binding.served_model) > MAX_WORD:
            _refuse(f"{param}[{index}].served_model", f"must have at most {MAX_WORD} characters")
        if binding.model in seen:
            _refuse(f"{param}[{index}].model", f"names {binding.model!r} a second time; name each model once")
        seen.add(binding.model)


def _check_http(http: resources_pb2.HttpBackend, param: str) -> None:
    _check_url(http.url, f"{param}.url")
    if http.api_key_file and http.api_key_env:
        _refuse(f"{param}.api_key_env", "cannot be set together with 'api_key_file'; set one of them")
    if len(http.api_key_file) > MAX_WORD or "\0" in http.api_key_file:
        _refuse(f"{param}.api_key_file", f"must be a path of at most {MAX_WORD} characters")
    if http.api_key_env and _VARIABLE.fullmatch(http.api_key_env) is None:
        _refuse(f"{param}.api_key_env", "must be the name of an environment variable, not the key itself")
    if http.HasField("timeout") and http.timeout.ToNanoseconds() <= 0:
        _refuse(f"{param}.timeout", "must be more than 0 s; leave it out to have the router's own")


def _check_globus(endpoint: resources_pb2.Endpoint, param: str) -> None:
    globus = endpoint.globus
    if not endpoint.models:
        _refuse(param.replace(".globus", ".models"), "must name at least one model, as a Globus endpoint reports none")
    _check_function(globus.inference, f"{param}.inference")
    if globus.HasField("batch"):
        _check_function(globus.batch, f"{param}.batch")
    if globus.api_port > 65_535:
        _refuse(f"{param}.api_port", "must be a port, 1 to 65535; 0 leaves it to the function")


def _check_route(route: resources_pb2.Route, param: str) -> None:
    check("route", route.name, param=f"{param}.name")
    _check_common(route, param)
    _check_word(route.model, f"{param}.model")
    _check_text(route.description, f"{param}.description")
    seen: set[tuple[str, str]] = set()
    if not route.targets:
        _refuse(f"{param}.targets", "must name at least one endpoint")
    for index, target in enumerate(_bounded(route.targets, f"{param}.targets")):
        where = f"{param}.targets[{index}]"
        check("endpoint", target.endpoint, param=f"{where}.endpoint")
        if target.model:
            _check_word(target.model, f"{where}.model")
        if (target.endpoint, target.model) in seen:
            _refuse(where, f"names '{target.endpoint}' a second time; name each target once")
        seen.add((target.endpoint, target.model))


def _check_common(resource: Resource, param: str) -> None:
    if len(resource.display_name) > MAX_WORD:
        _refuse(f"{param}.display_name", f"must have at most {MAX_WORD} characters")
    for key, value in resource.labels.items():
        if not key or len(key) > MAX_WORD or len(value) > MAX_WORD:
            _refuse(f"{param}.labels", f"must have keys and values of at most {MAX_WORD} characters, and no empty key")


def _check_availability(availability: int, param: str) -> None:
    if availability not in resources_pb2.Availability.values():
        _refuse(param, "must be ACTIVE, DRAINING or MAINTENANCE")


def _check_function(function: resources_pb2.GlobusFunction, param: str) -> None:
    # Any text: a UUID in production, a placeholder in examples and emulations.
    _check_word(function.endpoint_uuid, f"{param}.endpoint_uuid")
    _check_word(function.function_uuid, f"{param}.function_uuid")


def _check_each(values: Sequence[str], pattern: re.Pattern[str], rule: str, param: str) -> None:
    seen: set[str] = set()
    for index, value in enumerate(_bounded(values, param)):
        if len(value) > MAX_WORD or pattern.fullmatch(value) is None:
            _refuse(f"{param}[{index}]", f"must be {rule}; it is {value[:100]!r}")
        if value in seen:
            _refuse(f"{param}[{index}]", f"names {value!r} a second time; name each once")
        seen.add(value)


def _check_url(url: str, param: str, *, query: bool = False) -> None:
    rule = "must be a URL like 'http://gpu7:8000' or 'https://api.example.org'"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        _refuse(param, rule)
    printable = len(url) <= MAX_WORD and url.isprintable() and " " not in url
    if not printable or parts.scheme not in ("http", "https") or not parts.hostname:
        _refuse(param, rule)
    if "@" in parts.netloc:
        _refuse(param, "must hold no credentials; put the key into a file and name it in 'api_key_file'")
    if parts.fragment or (parts.query and not query):
        _refuse(param, "must end with its path, without '?' and '#'")


def _check_text(text: str, param: str) -> None:
    if len(text) > MAX_TEXT:
        _refuse(param, f"must have at most {MAX_TEXT} characters")


def _check_word(word: str, param: str) -> None:
    if not word or len(word) > MAX_WORD or not word.isprintable() or word != word.strip():
        _refuse(param, f"must be 1 to {MAX_WORD} printable characters without spaces around them")


def _bounded(items: Sequence[_Item], param: str) -> Sequence[_Item]:
    if len(items) > MAX_ITEMS:
        _refuse(param, f"must have at most {MAX_ITEMS} items")
    return items


def _refuse(param: str, rule: str) -> NoReturn:
    raise ServiceError(Reason.ARGUMENT_INVALID, f"'{param}' {rule}.", param=param)
