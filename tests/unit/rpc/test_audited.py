"""The boundary and the audit log: an act is on the disk before it is done; refusals are told of, floods summed up."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.core.inference import Request
from services.core.principal import CredentialKind, Identity, Principal, Role
from services.rpc.audit import Act, Who
from services.rpc.boundary import Boundary
from services.rpc.channel import bearer, dial
from services.rpc.errors import from_rpc_error
from services.rpc.server import GrpcServer
from services.runtime.audit import AuditLog
from services.runtime.audit_verify import files_of, verify
from services.runtime.auditor import LogAuditor
from tests.testing.clock import Clock

SERVICE = "weft.auth.v1.AuthService"
ADMIN = frozenset({Role.ADMIN})
TABLE = {f"/{SERVICE}/{method}": ADMIN for method in ("CreateKey", "RevokeKey", "GetKey", "RevokeEnrolment")}
SECRET = "weft_0123_the-secret"


class Authenticator:
    async def authenticate(self, credential: str | None) -> Principal:
        if credential == "denied":
            raise ServiceError(Reason.IDENTITY_FORBIDDEN, principal="users/eve")
        if credential not in ("admin", "user"):
            raise ServiceError(Reason.CREDENTIAL_INVALID)
        identity = Identity(CredentialKind.KEY, subject=f"keys/{credential}")
        return Principal(f"users/{credential}", frozenset({Role[credential.upper()]}), identity=identity)


class Servicer(auth_pb2_grpc.AuthServiceServicer):
    """Sees what the log says when it is called."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.saw: list[dict[str, Any]] = []
        self.refusal: ServiceError | None = None

    async def CreateKey(self, request: Any, context: Any) -> auth_pb2.CreateKeyResponse:  # noqa: N802
        self.saw = lines(self.file)
        return auth_pb2.CreateKeyResponse(key=SECRET, resource=auth_pb2.Key(name="keys/new"))

    async def RevokeKey(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise ServiceError(Reason.RESOURCE_NOT_FOUND)

    async def RevokeEnrolment(self, request: Any, context: Any) -> auth_pb2.RevokeEnrolmentResponse:  # noqa: N802
        return auth_pb2.RevokeEnrolmentResponse()

    async def GetKey(self, request: Any, context: Any) -> auth_pb2.GetKeyResponse:  # noqa: N802
        if self.refusal is not None:
            raise self.refusal
        return auth_pb2.GetKeyResponse()


class World:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.clock = Clock()
        self.log = AuditLog(file)
        self.auditor = LogAuditor(self.log, clock=self.clock.time)
        self.servicer = Servicer(file)
        self.server = GrpcServer(
            "127.0.0.1:0",
            Boundary(TABLE, Authenticator(), None, self.auditor),
            [SERVICE],
            [lambda server: auth_pb2_grpc.add_AuthServiceServicer_to_server(self.servicer, server)],
        )

    async def call(self, method: str, who: str = "admin", **fields: Any) -> Any:
        request = getattr(auth_pb2, f"{method}Request")(**fields)
        metadata = (*bearer(who), ("x-request-id", "r1"))
        async with dial(self.server.address) as channel:
            return await getattr(auth_pb2_grpc.AuthServiceStub(channel), method)(request, metadata=metadata, timeout=20)

    async def refused(self, method: str, who: str, **fields: Any) -> ServiceError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, who, **fields)
        return from_rpc_error(caught.value, unavailable=Reason.AUTH_UNAVAILABLE)

    async def written(self) -> list[dict[str, Any]]:
        """All lines but those about the log itself, once it is closed."""
        await self.auditor.close()
        return [line for line in lines(self.file) if line["event"] not in ("opened", "closed")]


def lines(file: Path) -> list[dict[str, Any]]:
    """Those that are whole: the next may be under way."""
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "audit.log")
    made.log.start()
    await made.server.start()
    yield made
    await made.server.stop(0)
    await made.auditor.close()


async def test_an_act_is_on_the_disk_before_it_is_done(world: World) -> None:
    await world.call("CreateKey", principal="users/ada")
    begun = world.servicer.saw[-1]
    assert (begun["event"], begun["principal"], begun["resource"]) == ("act", "users/admin", "users/ada")
    assert (begun["credential"], begun["subject"], begun["peer"]) == ("key", "keys/admin", "127.0.0.1")
    assert (begun["method"], begun["request_id"]) == (f"/{SERVICE}/CreateKey", "r1")
    done = lines(world.file)[-1]
    assert done["id"] == begun["id"], "before the answer, not some time after"
    assert (done["event"], done["outcome"], done["result"]) == ("done", "ok", "keys/new")
    assert SECRET not in world.file.read_text()


async def test_an_auditor_sees_who_was_made_an_administrator(world: World) -> None:
    await world.call("CreateKey", principal="users/ada", roles=[auth_pb2.ROLE_USER, auth_pb2.ROLE_ADMIN], groups=["g"])
    assert world.servicer.saw[-1]["detail"] == "roles: user, admin; groups: g"


async def test_an_act_that_fails_is_told_of(world: World) -> None:
    await world.refused("RevokeKey", "admin", name="keys/none")
    assert [(line["event"], line.get("outcome")) for line in await world.written()] == [
        ("act", None),
        ("done", "resource_not_found"),
    ]


async def test_an_act_whose_caller_leaves_before_it_is_done_was_not_done(world: World) -> None:
    beginning = asyncio.ensure_future(world.auditor.begin(Act(Who("users/admin"), "CreateKey", "users/ada", "r1")))
    await asyncio.sleep(0)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    act, done = await world.written()
    assert (act["event"], done["event"], done["outcome"]) == ("act", "done", "cancelled")
    assert act["id"] == done["id"]


async def test_what_changes_nothing_is_not_told_of(world: World) -> None:
    await world.call("GetKey", name="keys/a")
    assert await world.written() == []


async def test_what_the_mesh_does_by_itself_is_one_line(world: World) -> None:
    await world.call("RevokeEnrolment", start="start-1")
    (line,) = await world.written()
    assert (line["event"], line["resource"], line["outcome"]) == ("noted", "start-1", "ok")


async def test_refusals_are_told_of(world: World) -> None:
    await world.refused("GetKey", "user", name="keys/a")
    await world.refused("CreateKey", SECRET, principal="users/ada")
    known, unknown = await world.written()
    assert (known["event"], known["principal"], known["reason"]) == ("refused", "users/user", "action_forbidden")
    assert (unknown.get("principal", ""), unknown["reason"]) == ("", "credential_invalid")
    assert unknown["peer"] == "127.0.0.1"
    assert SECRET not in world.file.read_text()


async def test_whoever_is_known_and_not_admitted_is_named(world: World) -> None:
    error = await world.refused("GetKey", "denied", name="keys/a")
    assert error.principal == "users/eve", "whoever asked for somebody else can name them, too"
    world.auditor.refuse_call(None, Request("/v1/embeddings", (), b""), "", error)
    world.servicer.refusal = error
    await world.refused("GetKey", "admin", name="keys/a")
    told = await world.written()
    assert {(line["principal"], line["reason"]) for line in told} == {("users/eve", "identity_forbidden")}
    assert [line["method"].rpartition("/")[2] for line in told] == ["GetKey", "embeddings", "GetKey"]
    assert told[-1]["count"] == 1, "the same who, of whom an administrator asked"


async def test_no_server_says_who_the_caller_of_its_calls_was(world: World) -> None:
    error = ServiceError(Reason.IDENTITY_FORBIDDEN, principal="users/eve")
    world.auditor.refuse_call(Principal("users/ada"), Request("/v1/embeddings", (), b""), "m", error)
    (line,) = await world.written()
    assert line["principal"] == "users/ada"


async def test_who_asks_about_a_wrong_credential_has_not_shown_it(world: World) -> None:
    world.servicer.refusal = ServiceError(Reason.CREDENTIAL_INVALID)
    await world.refused("GetKey", "admin", name="keys/a")
    (line,) = await world.written()
    assert (line.get("principal", ""), line["peer"], line["reason"]) == ("", "127.0.0.1", "credential_invalid")


async def test_a_flood_is_two_lines(world: World) -> None:
    for _ in range(20):
        await world.refused("GetKey", "user", name="keys/a")
    assert [line.get("count", 0) for line in await world.written()] == [0, 19]


async def test_two_administrators_at_once(world: World) -> None:
    await asyncio.gather(*(world.call("CreateKey", principal=f"users/u{n}") for n in range(20)))
    told = await world.written()
    assert sorted(line["resource"] for line in told if line["event"] == "act") == sorted(
        f"users/u{n}" for n in range(20)
    )
    assert {line["outcome"] for line in told if line["event"] == "done"} == {"ok"}
    assert verify(world.file, files_of(world.file)).findings == []


async def test_where_the_log_cannot_be_written_no_act_is_done_and_all_else_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    file = tmp_path / "audit.log"
    file.mkdir()
    world = World(file)
    world.servicer.file = Path("/dev/null")
    await world.server.start()
    error = await world.refused("CreateKey", "admin", principal="users/ada")
    assert error.reason is Reason.OVERLOADED
    assert "nothing was done" in str(error)
    assert str(file) in str(error)
    await world.call("GetKey", name="keys/a")
    await world.call("RevokeEnrolment", start="start-1")
    file.rmdir()
    await world.call("CreateKey", principal="users/ada")
    await world.server.stop(0)
    assert [line["event"] for line in await world.written()][-2:] == ["act", "done"], "without a restart"
