"""What cannot be judged does not pass."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from weft.third_party.envoy.service.auth.v3 import external_auth_pb2

from services.auth.ext_authz import ExtAuthzServicer
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal, Role
from services.rpc.audit import Refusal, Who
from services.rpc.peer import Trust

ENVOY = "spiffe://weft/edge/envoy"
TRUST = Trust("weft", frozenset({ENVOY}))


class BrokenJudge:
    """Knows whoever asks, and fails to judge whom they ask about."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def authenticate(self, credential: str | None) -> Principal:
        if credential is None:
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        return Principal("services/envoy", frozenset({Role.SERVICE}))

    async def look_up(self, credential: str) -> Any:
        raise self.error


class Refusals:
    """An audit log that is told of refusals alone."""

    def __init__(self) -> None:
        self.told: list[tuple[Refusal, str]] = []

    def refuse(self, refusal: Refusal, request_id: str) -> None:
        self.told.append((refusal, request_id))


def asked(*, certificate: str = "", **headers: str) -> tuple[external_auth_pb2.CheckRequest, Any]:
    request = external_auth_pb2.CheckRequest()
    request.attributes.request.http.path = "/v1/chat/completions"
    request.attributes.request.http.headers.update({"authorization": "Bearer x"})
    context = SimpleNamespace(
        invocation_metadata=lambda: tuple(headers.items()),
        auth_context=lambda: {"peer_uri": [certificate.encode()]} if certificate else {},
    )
    return request, context


@pytest.mark.parametrize("error", [ServiceError(Reason.AUTH_UNAVAILABLE), RuntimeError("the database is away")])
async def test_what_cannot_be_judged_is_unavailable(error: Exception) -> None:
    audit = Refusals()
    servicer: Any = ExtAuthzServicer(BrokenJudge(error), TRUST, audit)  # type: ignore[arg-type]
    answer = await servicer.Check(*asked(authorization="Bearer service"))
    assert answer.denied_response.status.code == 503
    assert json.loads(answer.denied_response.body)["error"]["code"] == "auth_unavailable"
    assert {header.header.key for header in answer.denied_response.headers} >= {"retry-after"}
    assert "database" not in str(answer)
    assert audit.told == [], "nobody was refused"


async def test_envoys_own_certificate_is_enough_to_ask() -> None:
    judge: Any = BrokenJudge(ServiceError(Reason.CREDENTIAL_EXPIRED))
    servicer: Any = ExtAuthzServicer(judge, TRUST, Refusals())
    assert (await servicer.Check(*asked(certificate=ENVOY))).denied_response.status.code == 401
    for other in ("", "spiffe://weft/users/alice", "spiffe://elsewhere/edge/envoy"):
        with pytest.raises(ServiceError) as caught:
            await servicer.Check(*asked(certificate=other))
        assert caught.value.reason is Reason.CREDENTIAL_MISSING


@pytest.mark.parametrize("denied", [True, False])
async def test_who_is_turned_away_is_told_to_the_audit_log(denied: bool) -> None:
    audit = Refusals()
    reason = Reason.IDENTITY_FORBIDDEN if denied else Reason.CREDENTIAL_INVALID
    judge: Any = BrokenJudge(ServiceError(reason, principal="users/eve" if denied else ""))
    servicer: Any = ExtAuthzServicer(judge, TRUST, audit)  # type: ignore[arg-type]
    request, context = asked(certificate=ENVOY)
    request.attributes.request.http.headers.update({"x-request-id": "r1"})
    request.attributes.source.address.socket_address.address = "10.0.0.7"
    await servicer.Check(request, context)
    who = Who("users/eve" if denied else "", peer="10.0.0.7")
    assert audit.told == [(Refusal(who, "/v1/chat/completions", reason.name.lower()), "r1")]
