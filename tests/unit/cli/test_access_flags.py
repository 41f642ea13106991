"""What the flags about who may use a resource, and how much, make of it."""

from __future__ import annotations

import pytest
import typer
from google.protobuf.json_format import MessageToDict
from typer.testing import CliRunner
from weft.registry.v1 import resources_pb2

from services.cli import clusters, endpoints, routes
from services.cli.access_flags import AccessFlags

UUID = "0dd5ab0c-8eb1-11ec-8b9c-0fcd1f3a2b0e"


def put(flags: AccessFlags, present: resources_pb2.Cluster | None = None) -> tuple[object, list[str]]:
    wanted = resources_pb2.Cluster()
    paths = flags.put(wanted, present or resources_pb2.Cluster())
    return MessageToDict(wanted, preserving_proto_field_name=True), paths


def test_every_flag() -> None:
    flags = AccessFlags(
        allow_group=[UUID.upper(), "Staff"],
        allow_domain=["anl.gov", "*.uchicago.edu"],
        allow_provider=[UUID],
        allow_principal=["services/portal"],
        require_policy=[UUID],
        max_session_age="1.5h",
        require_mfa=True,
        requests_per_second=0.5,
        requests_per_second_per_user=0.25,
        concurrent_calls=64,
        concurrent_calls_per_user=8,
        tokens_per_minute=1000,
        tokens_per_minute_per_user=100,
        tokens_per_day=10_000,
        tokens_per_day_per_user=1_000,
    )
    made, paths = put(flags)
    assert paths == ["access", "limits"]
    assert made == {
        "access": {
            "allowed_globus_groups": [UUID, "Staff"],
            "allowed_domains": ["anl.gov", "*.uchicago.edu"],
            "allowed_identity_providers": [UUID],
            "allowed_principals": ["services/portal"],
            "authentication_policies": [UUID],
            "max_session_age": "5400s",
            "require_mfa": True,
        },
        "limits": {
            "requests_per_second": 0.5,
            "requests_per_second_per_user": 0.25,
            "concurrent_calls": 64,
            "concurrent_calls_per_user": 8,
            "tokens_per_minute": "1000",
            "tokens_per_minute_per_user": "100",
            "tokens_per_day": "10000",
            "tokens_per_day_per_user": "1000",
        },
    }


def test_what_is_not_given_stays_and_what_is_cleared_goes() -> None:
    assert put(AccessFlags()) == ({}, [])
    present = resources_pb2.Cluster(
        etag="7",
        access=resources_pb2.AccessPolicy(allowed_globus_groups=["g"], allowed_domains=["d"], require_mfa=True),
        limits=resources_pb2.Limits(tokens_per_day=5, concurrent_calls=2),
    )
    made, _ = put(AccessFlags(allow_group=[""], tokens_per_day=0), present)
    assert made == {
        "etag": "7",
        "access": {"allowed_domains": ["d"], "require_mfa": True},
        "limits": {"concurrent_calls": 2},
    }
    made, paths = put(
        AccessFlags(allow_group=[], allow_domain=[""], require_mfa=False, concurrent_calls=0, tokens_per_day=0), present
    )
    assert (made, paths) == ({"etag": "7"}, ["access", "limits"]), "none left is no policy, and no limits"


def test_an_age_can_be_lifted_and_must_be_a_time() -> None:
    present = resources_pb2.Cluster()
    present.access.max_session_age.FromSeconds(60)
    assert put(AccessFlags(max_session_age="none"), present)[0] == {}
    with pytest.raises(typer.BadParameter, match="--max-session-age must be a time"):
        put(AccessFlags(max_session_age="soon"))


@pytest.mark.parametrize("app", [clusters.app, endpoints.app, routes.app])
@pytest.mark.parametrize("command", ["create", "update"])
def test_the_three_commands_have_them(app: typer.Typer, command: str) -> None:
    told = CliRunner().invoke(app, [command, "--help"]).output
    for flag in ("--allow-group", "--max-session-age", "--no-require-mfa", "--tokens-per-day-per-user"):
        assert flag in told
