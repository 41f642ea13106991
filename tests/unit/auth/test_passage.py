"""What a proxy lets pass: nothing less than the services themselves would serve."""

from __future__ import annotations

import itertools

import pytest

from services.auth import ext_authz, passage
from services.auth import servicer as auth
from services.auth.passage import check_passage, needs_nobody
from services.auth.usage import servicer as usage
from services.core.errors import Reason, ServiceError
from services.core.principal import Permissions, Principal, Role
from services.facade import routes
from services.launcher import servicer as launcher
from services.registry import servicer as registry
from services.router import inference_servicer, session_servicer
from services.router.typed_servicer import TYPED
from services.rpc.boundary import HEALTH_AND_REFLECTION, Access, Open

TABLES: tuple[Access, ...] = (
    HEALTH_AND_REFLECTION,
    auth.ACCESS,
    usage.ACCESS,
    launcher.ACCESS,
    registry.ACCESS,
    inference_servicer.ACCESS,
    session_servicer.ACCESS,
)
RPCS = {method: allowed for table in TABLES for method, allowed in table.items()}
ROLES = [frozenset(roles) for count in (1, 2) for roles in itertools.combinations(Role, count)]

NEEDS_A_BEARER = {f"/{inference_servicer.SERVICE}/{method}" for method in ("Infer", *TYPED)}
"""Judged by the gateway, which knows no call without a bearer."""
NOT_THROUGH_A_PROXY = {"/weft.inference.v1.InferenceService/Multiplex"}
"""Each call inside has a bearer of its own, which no proxy sees."""


@pytest.mark.parametrize("method", RPCS)
def test_whom_a_service_serves_passes(method: str) -> None:
    allowed = RPCS[method]
    if method in NOT_THROUGH_A_PROXY:
        with pytest.raises(ServiceError):
            check_passage(Principal("services/x", frozenset(Role)), "POST", method, grpc=True)
    elif allowed is Open.TO_ALL and method not in NEEDS_A_BEARER:
        assert needs_nobody(method)
    else:
        assert not needs_nobody(method)
        for roles in ROLES:
            if allowed is Open.TO_ALL or allowed & roles:
                check_passage(Principal("users/ada", roles), "POST", method, grpc=True)


@pytest.mark.parametrize("method", [method for method, allowed in RPCS.items() if "weft.registry" in method])
def test_users_are_turned_away_from_what_operators_do(method: str) -> None:
    with pytest.raises(ServiceError) as caught:
        check_passage(Principal("users/ada", frozenset({Role.USER})), "POST", method, grpc=True)
    assert caught.value.reason is Reason.ACTION_FORBIDDEN


@pytest.mark.parametrize("method", ["/weft.made.up.v1.Service/Do", "/x", "", f"/{ext_authz.SERVICE}/Check"])
def test_what_is_not_known_is_closed(method: str) -> None:
    assert not needs_nobody(method)
    with pytest.raises(ServiceError):
        check_passage(Principal("users/root", frozenset(Role)), "POST", method, grpc=True)


def test_what_the_facade_answers_to_all_needs_nobody() -> None:
    assert routes.OPEN_TO_ALL | set(routes.OWN) == passage.OPEN_PATHS


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/resource_server/v1/embeddings", "/resource_server/a/b/v1/embeddings"]
)
def test_the_scope_of_operations_holds_by_every_url(path: str) -> None:
    scoped = Principal("users/ada", frozenset({Role.USER}), Permissions(("*",), allow_operations=("chat/completions",)))
    check_passage(scoped, "POST", path.replace("embeddings", "chat/completions"), grpc=False)
    with pytest.raises(ServiceError) as caught:
        check_passage(scoped, "POST", path, grpc=False)
    assert caught.value.reason is Reason.ACTION_FORBIDDEN
    assert "embeddings" in caught.value.message
