"""Auth over a real socket: keys from making to revoking, session tokens, pages, who may do what."""

import asyncio
import logging
import stat
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from google.protobuf.duration_pb2 import Duration
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.auth.config import AuthConfig
from services.auth.main import serve
from services.auth.servicer import SERVICE
from services.core.errors import Reason, ServiceError
from services.rpc.authenticator import CachedAuthenticator
from services.rpc.channel import bearer, dial
from services.rpc.errors import from_rpc_error
from services.rpc.server import check_health
from services.rpc.session_token import SessionTokenVerifier
from services.runtime.process import Process

ENDPOINT = "clusters/local/endpoints/sim"
TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Auth:
    """A running auth, and the keys that it made."""

    home: Path
    address: str
    channel: grpc.aio.Channel
    stub: auth_pb2_grpc.AuthServiceStub

    def key(self, who: str) -> str:
        return (self.home / f"{who}.key").read_text().strip()

    def by(self, who: str) -> dict[str, Any]:
        return {"metadata": bearer(self.key(who)), "timeout": TIMEOUT}

    async def make(self, **fields: Any) -> auth_pb2.CreateKeyResponse:
        request = auth_pb2.CreateKeyRequest(**{"principal": "users/ada", **fields})
        return await self.stub.CreateKey(request, **self.by("dev"))

    async def judge(self, credential: str) -> auth_pb2.AuthenticateResponse:
        return await self.stub.Authenticate(auth_pb2.AuthenticateRequest(credential=credential), **self.by("service"))

    async def issue(
        self, credential: str, endpoint: str = "", instance: str = ""
    ) -> auth_pb2.IssueSessionTokenResponse:
        request = auth_pb2.IssueSessionTokenRequest(credential=credential, endpoint=endpoint, instance=instance)
        return await self.stub.IssueSessionToken(request, **self.by("service"))

    async def enrol(self, start: str = "start-1", **fields: Any) -> auth_pb2.IssueEnrolmentTokenResponse:
        fields = {"endpoint": ENDPOINT, "lifetime": Duration(seconds=60), **fields}
        request = auth_pb2.IssueEnrolmentTokenRequest(start=start, **fields)
        return await self.stub.IssueEnrolmentToken(request, **self.by("service"))

    async def revoke(self, start: str) -> None:
        await self.stub.RevokeEnrolment(auth_pb2.RevokeEnrolmentRequest(start=start), **self.by("service"))


@asynccontextmanager
async def running(home: Path, **settings: Any) -> AsyncIterator[Auth]:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    process = Process(home=home, ready=lambda _, address: ready.set_result(address), grace=1.0)
    task = asyncio.ensure_future(serve(AuthConfig(**{"address": "127.0.0.1:0", **settings}), process))
    try:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        async with dial(ready.result()) as channel:
            yield Auth(home, ready.result(), channel, auth_pb2_grpc.AuthServiceStub(channel))
    finally:
        process.stopping.set()
        async with asyncio.timeout(TIMEOUT):
            await task


@pytest.fixture
async def auth(tmp_path: Path) -> AsyncIterator[Auth]:
    async with running(tmp_path) as auth:
        yield auth


async def refused(call: Awaitable[Any]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value, unavailable=Reason.AUTH_UNAVAILABLE)


async def test_ready_private_and_healthy(auth: Auth) -> None:
    assert await check_health(auth.channel, SERVICE, timeout=TIMEOUT)
    for name in ("auth.db", "dev.key", "service.key", "worker.key"):
        assert stat.S_IMODE((auth.home / name).stat().st_mode) == 0o600, name


async def test_a_key_from_making_to_revoking(auth: Auth) -> None:
    made = await auth.make(display_name="laptop", permissions={"allow_models": ["llama*"], "deny_models": ["*-70b"]})
    judged = await auth.judge(made.key)
    assert judged.principal.name == "users/ada"
    assert list(judged.principal.roles) == [auth_pb2.ROLE_USER]
    assert list(judged.principal.permissions.deny_models) == ["*-70b"]
    assert judged.max_age.ToMilliseconds() == 30_000
    assert not judged.HasField("expire_time")
    name = made.resource.name
    got = (await auth.stub.GetKey(auth_pb2.GetKeyRequest(name=name), **auth.by("dev"))).key
    assert got == made.resource
    assert made.key.startswith(got.prefix)
    assert made.key not in str(got)
    revoked = (await auth.stub.RevokeKey(auth_pb2.RevokeKeyRequest(name=name), **auth.by("dev"))).key
    assert revoked.HasField("revoke_time")
    assert (await refused(auth.judge(made.key))).reason is Reason.CREDENTIAL_INVALID
    again = (await auth.stub.RevokeKey(auth_pb2.RevokeKeyRequest(name=name), **auth.by("dev"))).key
    assert again == revoked


async def test_what_a_key_may_if_nothing_is_said(auth: Auth) -> None:
    absent, empty = await auth.make(), await auth.make(permissions=auth_pb2.Permissions())
    assert list(absent.resource.permissions.allow_models) == ["*"]
    assert list(empty.resource.permissions.allow_models) == []


async def test_an_expiring_key_is_kept_no_longer_than_it_lives(auth: Auth) -> None:
    made = await auth.make(lifetime=Duration(seconds=25))
    judged = await auth.judge(made.key)
    assert 0 < judged.max_age.ToMilliseconds() <= 25_000
    assert judged.expire_time == made.resource.expire_time
    brief = await auth.make(lifetime=Duration(nanos=1_000_000))
    async with asyncio.timeout(TIMEOUT):
        while (error := await outcome(auth.judge(brief.key))) is None:
            continue
    assert error.reason is Reason.CREDENTIAL_EXPIRED


async def outcome(call: Awaitable[Any]) -> ServiceError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error, unavailable=Reason.AUTH_UNAVAILABLE)
    return None


@pytest.mark.parametrize("credential", ["", "nonsense", "weft_000000000000_" + "a" * 43, "eyJhbGciOiJub25lIn0.e30."])
async def test_unknown_credentials(auth: Auth, credential: str) -> None:
    assert (await refused(auth.judge(credential))).reason is Reason.CREDENTIAL_INVALID
    assert (await refused(auth.issue(credential, ENDPOINT, "run-1"))).reason is Reason.CREDENTIAL_INVALID


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"principal": ""}, "principal"),
        ({"principal": "ada"}, "principal"),
        ({"principal": "robots/r"}, "principal"),
        ({"principal": "users/a b"}, "principal"),
        ({"lifetime": Duration()}, "lifetime"),
        ({"lifetime": Duration(seconds=-1)}, "lifetime"),
        ({"roles": [99]}, "roles"),
    ],
)
async def test_bad_wishes(auth: Auth, fields: dict[str, Any], param: str) -> None:
    error = await refused(auth.make(**fields))
    assert (error.reason, error.param) == (Reason.ARGUMENT_INVALID, param)


async def test_names_of_keys(auth: Auth) -> None:
    for method, request in (("GetKey", auth_pb2.GetKeyRequest), ("RevokeKey", auth_pb2.RevokeKeyRequest)):
        call = getattr(auth.stub, method)
        assert (await refused(call(request(name="keys/none"), **auth.by("dev")))).reason is Reason.RESOURCE_NOT_FOUND
        assert (await refused(call(request(name="none"), **auth.by("dev")))).reason is Reason.ARGUMENT_INVALID


async def test_pages(auth: Auth) -> None:
    made = {(await auth.make()).resource.name for _ in range(5)}
    seen: list[str] = []
    request = auth_pb2.ListKeysRequest(page_size=2, principal="users/ada")
    while True:
        page = await auth.stub.ListKeys(request, **auth.by("dev"))
        assert len(page.keys) <= 2
        seen += [key.name for key in page.keys]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert seen == sorted(made)
    whole = await auth.stub.ListKeys(auth_pb2.ListKeysRequest(), **auth.by("dev"))
    assert len(whole.keys) == 5 + 3
    for bad in ({"page_size": -1}, {"page_token": "!"}, {"page_token": "é"}):
        error = await refused(auth.stub.ListKeys(auth_pb2.ListKeysRequest(**bad), **auth.by("dev")))
        assert error.reason is Reason.ARGUMENT_INVALID, bad
    negative = auth_pb2.ListVerificationKeysRequest(page_size=-1)
    error = await refused(auth.stub.ListVerificationKeys(negative, **auth.by("service")))
    assert error.reason is Reason.ARGUMENT_INVALID


async def test_each_method_wants_its_role(auth: Auth) -> None:
    judging = [
        auth.stub.IssueEnrolmentToken(auth_pb2.IssueEnrolmentTokenRequest(), **auth.by("dev")),
        auth.stub.RevokeEnrolment(auth_pb2.RevokeEnrolmentRequest(), **auth.by("worker")),
        auth.stub.Authenticate(auth_pb2.AuthenticateRequest(), **auth.by("dev")),
        auth.stub.IssueSessionToken(auth_pb2.IssueSessionTokenRequest(), **auth.by("worker")),
        auth.stub.ListVerificationKeys(auth_pb2.ListVerificationKeysRequest(), **auth.by("dev")),
        auth.stub.WatchRevocations(auth_pb2.WatchRevocationsRequest(), **auth.by("dev")).read(),
    ]
    keeping = [
        auth.stub.CreateKey(auth_pb2.CreateKeyRequest(), **auth.by("service")),
        auth.stub.GetKey(auth_pb2.GetKeyRequest(), **auth.by("service")),
        auth.stub.ListKeys(auth_pb2.ListKeysRequest(), **auth.by("worker")),
        auth.stub.RevokeKey(auth_pb2.RevokeKeyRequest(), **auth.by("service")),
        auth.stub.RotateKey(auth_pb2.RotateKeyRequest(), **auth.by("worker")),
        auth.stub.RotateSigningKey(auth_pb2.RotateSigningKeyRequest(), **auth.by("service")),
        auth.stub.DenyPrincipal(auth_pb2.DenyPrincipalRequest(), **auth.by("service")),
        auth.stub.AdmitPrincipal(auth_pb2.AdmitPrincipalRequest(), **auth.by("worker")),
        auth.stub.ListDenials(auth_pb2.ListDenialsRequest(), **auth.by("service")),
    ]
    for call in judging + keeping:
        assert (await refused(call)).reason is Reason.ACTION_FORBIDDEN
    assert (await refused(auth.stub.ListKeys(auth_pb2.ListKeysRequest()))).reason is Reason.CREDENTIAL_MISSING


async def test_a_session_token_is_issued_verified_and_renewed(auth: Auth) -> None:
    verifier = SessionTokenVerifier(auth.stub, lambda: auth.key("service"))
    issued = await auth.issue(auth.key("worker"), ENDPOINT, "run-1")
    claims = await verifier.verify(issued.token)
    assert (claims.endpoint, claims.instance, claims.principal) == (ENDPOINT, "run-1", "workers/default")
    assert claims.expires_at == issued.expire_time.ToMilliseconds() / 1000
    for again in (await auth.issue(issued.token), await auth.issue(issued.token, ENDPOINT, "run-1")):
        renewed = await verifier.verify(again.token)
        assert (renewed.endpoint, renewed.instance, renewed.key) == (ENDPOINT, "run-1", claims.key)
    for other in (("clusters/local/endpoints/gpu", "run-1"), (ENDPOINT, "run-2")):
        assert (await refused(auth.issue(issued.token, *other))).reason is Reason.ACTION_FORBIDDEN


async def test_who_may_have_a_session_token(auth: Auth) -> None:
    here = await auth.make(
        principal="workers/w", roles=[auth_pb2.ROLE_WORKER], permissions={"allow_endpoints": ["clusters/a/*"]}
    )
    await auth.issue(here.key, "clusters/a/endpoints/x", "run-1")
    assert (await refused(auth.issue(here.key, ENDPOINT, "run-1"))).reason is Reason.ACTION_FORBIDDEN
    user = await auth.make(permissions={"allow_endpoints": ["*"]})
    assert (await refused(auth.issue(user.key, ENDPOINT, "run-1"))).reason is Reason.ACTION_FORBIDDEN
    for wrong in (("nonsense", "run-1"), (ENDPOINT, ""), (ENDPOINT, "a b")):
        assert (await refused(auth.issue(auth.key("worker"), *wrong))).reason is Reason.ARGUMENT_INVALID


async def test_a_revoked_worker_key_renews_no_token(auth: Auth) -> None:
    made = await auth.make(principal="workers/w", roles=[auth_pb2.ROLE_WORKER], permissions={"allow_endpoints": ["*"]})
    issued = await auth.issue(made.key, ENDPOINT, "run-1")
    await auth.stub.RevokeKey(auth_pb2.RevokeKeyRequest(name=made.resource.name), **auth.by("dev"))
    assert (await refused(auth.issue(issued.token))).reason is Reason.CREDENTIAL_INVALID


async def test_a_token_does_not_outlive_its_key(auth: Auth) -> None:
    made = await auth.make(
        principal="workers/w",
        roles=[auth_pb2.ROLE_WORKER],
        permissions={"allow_endpoints": ["*"]},
        lifetime=Duration(seconds=60),
    )
    issued = await auth.issue(made.key, ENDPOINT, "run-1")
    assert issued.expire_time.seconds <= made.resource.expire_time.seconds


async def test_an_enrolment_token_buys_session_tokens_for_one_instance(auth: Auth) -> None:
    verifier = SessionTokenVerifier(auth.stub, lambda: auth.key("service"))
    enrolment = await auth.enrol(serves="users/ada")
    for _ in range(2):  # the first answer may have been lost
        issued = await auth.issue(enrolment.token, ENDPOINT, "run-1")
        claims = await verifier.verify(issued.token)
        assert (claims.endpoint, claims.instance, claims.start, claims.serves, claims.key) == (
            *(ENDPOINT, "run-1", "start-1", "users/ada", ""),
        )
    assert (await refused(auth.issue(enrolment.token, ENDPOINT, "run-2"))).reason is Reason.ACTION_FORBIDDEN
    again = await auth.enrol(serves="users/ada")
    assert again.token != enrolment.token
    error = await refused(auth.issue(again.token, ENDPOINT, "run-2"))
    assert (error.reason, error.param) == (Reason.ACTION_FORBIDDEN, "instance")
    renewed = await verifier.verify((await auth.issue(issued.token)).token)
    assert (renewed.instance, renewed.start, renewed.serves) == ("run-1", "start-1", "users/ada")


async def test_of_many_that_enrol_at_once_one_is_admitted(auth: Auth) -> None:
    token = (await auth.enrol()).token
    errors = await asyncio.gather(*(outcome(auth.issue(token, ENDPOINT, f"run-{number}")) for number in range(20)))
    assert [error.reason if error else None for error in errors].count(None) == 1
    assert {error.reason for error in errors if error} == {Reason.ACTION_FORBIDDEN}


async def test_a_revoked_start_admits_nobody_and_renews_no_token(auth: Auth) -> None:
    token = (await auth.enrol()).token
    issued = await auth.issue(token, ENDPOINT, "run-1")
    await auth.revoke("start-1")
    await auth.revoke("never-known")
    assert (await refused(auth.issue(issued.token))).reason is Reason.ACTION_FORBIDDEN
    assert (await refused(auth.issue(token, ENDPOINT, "run-1"))).reason is Reason.ACTION_FORBIDDEN
    for start in ("start-1", "never-known"):
        assert (await refused(auth.enrol(start))).reason is Reason.ACTION_FORBIDDEN


async def test_an_enrolment_token_expires(auth: Auth) -> None:
    brief = await auth.enrol("brief", lifetime=Duration(nanos=1_000_000))  # over before the answer is there
    error = await refused(auth.issue(brief.token, ENDPOINT, "run-1"))
    assert error.reason is Reason.CREDENTIAL_EXPIRED


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"start": ""}, "start"),
        ({"start": "a b"}, "start"),
        ({"start": "a" * 65}, "start"),
        ({"endpoint": "nonsense"}, "endpoint"),
        ({"lifetime": Duration()}, "lifetime"),
        ({"lifetime": Duration(seconds=91 * 86400)}, "lifetime"),
        ({"serves": "ada"}, "serves"),
    ],
)
async def test_bad_wishes_for_an_enrolment(auth: Auth, fields: dict[str, Any], param: str) -> None:
    error = await refused(auth.enrol(**fields))
    assert (error.reason, error.param) == (Reason.ARGUMENT_INVALID, param)


async def test_an_enrolment_is_for_its_endpoint_and_an_instance_with_a_name(auth: Auth) -> None:
    token = (await auth.enrol()).token
    other = await refused(auth.issue(token, "clusters/local/endpoints/gpu", "run-1"))
    assert (other.reason, other.param) == (Reason.ACTION_FORBIDDEN, "endpoint")
    assert (await refused(auth.issue(token, ENDPOINT, ""))).reason is Reason.ARGUMENT_INVALID
    assert (await refused(auth.judge(token))).reason is Reason.CREDENTIAL_INVALID, "it is good for nothing else"
    assert (await auth.issue(token, ENDPOINT, "run-1")).token, "what was refused has used nothing up"


async def test_a_wrong_service_key_makes_no_callers_key_wrong(auth: Auth) -> None:
    authenticator = CachedAuthenticator(auth.stub, lambda: "weft_000000000000_" + "a" * 43)
    with pytest.raises(ServiceError) as caught:
        await authenticator.authenticate(auth.key("dev"))
    assert caught.value.reason is Reason.AUTH_UNAVAILABLE
    await authenticator.close()


async def test_keys_and_tokens_outlive_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as auth:
        made = await auth.make()
        token = (await auth.issue(auth.key("worker"), ENDPOINT, "run-1")).token
        keys = {who: auth.key(who) for who in ("dev", "service", "worker")}
    async with running(tmp_path) as auth:
        assert {who: auth.key(who) for who in keys} == keys
        assert (await auth.judge(made.key)).principal.name == "users/ada"
        assert (await auth.issue(token)).token


async def test_two_auths_on_one_postgresql(tmp_path: Path, postgresql_url: str) -> None:
    async with (
        running(tmp_path / "one", database=postgresql_url) as one,
        running(tmp_path / "other", database=postgresql_url) as other,
    ):
        made = await one.make()
        assert (await other.judge(made.key)).principal.name == "users/ada"
        token = (await one.issue(one.key("worker"), ENDPOINT, "run-1")).token
        assert (await other.issue(token)).token
        verifier = SessionTokenVerifier(other.stub, lambda: other.key("service"))
        assert (await verifier.verify(token)).instance == "run-1"
        enrolment = (await one.enrol()).token
        both = [auth.issue(enrolment, ENDPOINT, f"run-{at}") for at, auth in enumerate((one, other) * 10)]
        errors = await asyncio.gather(*map(outcome, both))
        assert errors.count(None) == 1


async def test_a_rotated_signing_key_needs_no_restart(auth: Auth) -> None:
    verifier = SessionTokenVerifier(auth.stub, lambda: auth.key("service"))
    before = (await auth.issue(auth.key("worker"), ENDPOINT, "run-1")).token
    fresh = await auth.stub.RotateSigningKey(auth_pb2.RotateSigningKeyRequest(), **auth.by("dev"))
    after = (await auth.issue(before)).token
    assert [jwt.get_unverified_header(token)["kid"] == fresh.key.id for token in (before, after)] == [False, True]
    for token in (after, before):
        assert (await verifier.verify(token)).instance == "run-1"


async def test_no_key_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(tmp_path) as auth:
        made = await auth.make()
        token = (await auth.issue(auth.key("worker"), ENDPOINT, "run-1")).token
        await refused(auth.judge(made.key[:-1]))
        enrolment = (await auth.enrol()).token
        await auth.issue(enrolment, ENDPOINT, "run-1")
        await refused(auth.issue(enrolment, ENDPOINT, "run-2"))
        for secret in (enrolment, made.key, auth.key("dev"), auth.key("service"), auth.key("worker"), token):
            assert secret.rpartition("_")[2][-20:] not in caplog.text
