"""Policies and limits that the registry takes in, and those that it refuses, each with the field and the rule."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from weft.registry.v1 import resources_pb2

from services.core.errors import Reason, ServiceError
from services.registry.validation import check_resource

UUID = "0dd5ab0c-8eb1-11ec-8b9c-0fcd1f3a2b0e"
KINDS = {
    "cluster": resources_pb2.Cluster(name="clusters/a"),
    "endpoint": resources_pb2.Endpoint(name="clusters/a/endpoints/e", session=resources_pb2.SessionBackend()),
    "route": resources_pb2.Route(
        name="routes/r", model="m", targets=[resources_pb2.RouteTarget(endpoint="clusters/a/endpoints/e")]
    ),
}


def check(kind: str, **fields: dict[str, Any]) -> None:
    resource = type(KINDS[kind])()
    resource.CopyFrom(KINDS[kind])
    check_resource(ParseDict(fields, resource), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "access",
    [
        {"allowed_globus_groups": [UUID, "staff of the site"]},
        {"allowed_domains": ["anl.gov", "*.uchicago.edu", "ANL.gov", "xn--bcher-kva.example", "localhost"]},
        {"allowed_identity_providers": [UUID, "https://issuer.example.org/realms/a", "http://127.0.0.1:9000"]},
        {"allowed_principals": ["users/alice@anl.gov", "users/*@anl.gov", "services/portal", "*"]},
        {"authentication_policies": [UUID], "max_session_age": "3600s", "require_mfa": True},
    ],
)
def test_what_is_taken(kind: str, access: dict[str, Any]) -> None:
    check(kind, access=access)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("allowed_globus_groups", [""], "[0]"),
        ("allowed_globus_groups", [UUID.upper()], "[0]"),
        ("allowed_globus_groups", ["a", "a"], "[1]"),
        ("allowed_globus_groups", ["a,b"], "[0]"),
        ("allowed_globus_groups", [" a"], "[0]"),
        ("allowed_domains", [""], "[0]"),
        ("allowed_domains", ["*"], "[0]"),
        ("allowed_domains", ["*."], "[0]"),
        ("allowed_domains", ["a.*.gov"], "[0]"),
        ("allowed_domains", [".anl.gov"], "[0]"),
        ("allowed_domains", ["anl.gov."], "[0]"),
        ("allowed_domains", ["bücher.example"], "[0]"),
        ("allowed_domains", ["alice@anl.gov"], "[0]"),
        ("allowed_domains", ["anl.gov", "anl.gov"], "[1]"),
        ("allowed_identity_providers", [""], "[0]"),
        ("allowed_identity_providers", ["google"], "[0]"),
        ("allowed_identity_providers", [UUID.upper()], "[0]"),
        ("allowed_principals", [""], "[0]"),
        ("allowed_principals", ["alice"], "[0]"),
        ("allowed_principals", ["groups/x"], "[0]"),
        ("authentication_policies", [""], "[0]"),
        ("max_session_age", "0s", ""),
        ("max_session_age", "-5s", ""),
    ],
)
def test_what_is_refused(kind: str, field: str, value: object, where: str) -> None:
    with pytest.raises(ServiceError) as caught:
        check(kind, access={field: value})
    assert (caught.value.reason, caught.value.param) == (
        Reason.ARGUMENT_INVALID,
        f"{kind}.access.{field}{where}",
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("requests_per_second", -1),
        ("requests_per_second", "NaN"),
        ("requests_per_second_per_user", "Infinity"),
        ("requests_per_second_per_user", 1e7),
        ("tokens_per_minute", 2**53 + 1),
        ("tokens_per_day_per_user", 2**64 - 1),
    ],
)
def test_limits_that_are_refused(kind: str, field: str, value: object) -> None:
    with pytest.raises(ServiceError) as caught:
        check(kind, limits={field: value})
    assert caught.value.param == f"{kind}.limits.{field}"


def test_limits_that_are_taken() -> None:
    check("route", limits={"requests_per_second": 0.1, "tokens_per_day": 2**53, "concurrent_calls_per_user": 8})
