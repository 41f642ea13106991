"""The life of keys and denials at a running auth: scope, rotation, last use, revocation told to those who watch."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from google.protobuf.duration_pb2 import Duration
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.auth.store import KeyStore
from services.core.errors import Reason, ServiceError
from services.rpc.authenticator import CachedAuthenticator
from services.rpc.channel import bearer, dial
from services.rpc.revocations import RevocationWatcher, forgetting
from services.runtime.database import open_database
from tests.integration.conftest import Measured
from tests.integration.test_auth import ENDPOINT, TIMEOUT, Auth, outcome, refused, running
from tests.testing.parts import requires_part
from tests.testing.processes import HeldPort

WORKER = {
    "principal": "workers/w",
    "roles": [auth_pb2.ROLE_WORKER],
    "permissions": {"allow_endpoints": ["*"]},
}
CENTURIES = Duration(seconds=9000 * 365 * 86400)


@pytest.fixture
async def auth(tmp_path: Path) -> AsyncIterator[Auth]:
    async with running(tmp_path) as auth:
        yield auth


async def revoke(auth: Auth, name: str) -> None:
    await auth.stub.RevokeKey(auth_pb2.RevokeKeyRequest(name=name), **auth.by("dev"))


async def deny(auth: Auth, principal: str, by: str = "dev") -> auth_pb2.Denial:
    request = auth_pb2.DenyPrincipalRequest(principal=principal, comment="left")
    return (await auth.stub.DenyPrincipal(request, **auth.by(by))).denial


async def admit(auth: Auth, principal: str) -> None:
    await auth.stub.AdmitPrincipal(auth_pb2.AdmitPrincipalRequest(principal=principal), **auth.by("dev"))


async def rotate(auth: Auth, name: str, **fields: Any) -> auth_pb2.RotateKeyResponse:
    return await auth.stub.RotateKey(auth_pb2.RotateKeyRequest(name=name, **fields), **auth.by("dev"))


# Scope


async def test_a_key_says_who_it_is_and_what_it_is_for(auth: Auth) -> None:
    permissions = {"allow_models": ["llama*"], "allow_operations": ["chat/completions"]}
    made = await auth.make(principal="users/ada@anl.gov", permissions=permissions, groups=["g2", "g1"])
    judged = (await auth.judge(made.key)).principal
    assert list(judged.permissions.allow_operations) == ["chat/completions"]
    identity = judged.identity
    assert (identity.kind, identity.subject, identity.domain) == (
        *(auth_pb2.CREDENTIAL_KIND_KEY, made.resource.name, "anl.gov"),
    )
    assert list(identity.groups) == list(made.resource.groups) == ["g1", "g2"]


# Rotation


async def test_a_rotated_key_and_its_successor_are_both_good_for_the_overlap(auth: Auth) -> None:
    made = await auth.make(principal="users/ada@anl.gov", groups=["g"], display_name="laptop")
    rotated = await rotate(auth, made.resource.name)
    assert rotated.rotated.successor == rotated.resource.name != made.resource.name
    assert rotated.rotated.expire_time.seconds - rotated.resource.create_time.seconds in (86399, 86400, 86401)
    assert not rotated.resource.HasField("expire_time")
    old, new = (await auth.judge(made.key)).principal, (await auth.judge(rotated.key)).principal
    assert new.identity.subject == rotated.resource.name
    new.identity.subject = old.identity.subject
    assert old == new
    error = await refused(rotate(auth, made.resource.name))
    assert error.reason is Reason.RESOURCE_CHANGED
    assert rotated.resource.name in error.message


async def test_without_an_overlap_the_old_key_ends_at_once(auth: Auth) -> None:
    made = await auth.make(lifetime=Duration(seconds=500))
    rotated = await rotate(auth, made.resource.name, overlap=Duration())
    assert (await refused(auth.judge(made.key))).reason is Reason.CREDENTIAL_EXPIRED
    life = rotated.resource.expire_time.ToMilliseconds() - rotated.resource.create_time.ToMilliseconds()
    assert abs(life - 500_000) <= 1, "as long as the old one was to live from its making"
    longer = await rotate(auth, rotated.resource.name, lifetime=Duration(seconds=900))
    life = longer.resource.expire_time.ToMilliseconds() - longer.resource.create_time.ToMilliseconds()
    assert abs(life - 900_000) <= 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"overlap": Duration(seconds=-1)}, "overlap"),
        ({"overlap": CENTURIES}, "overlap"),
        ({"lifetime": Duration()}, "lifetime"),
        ({"lifetime": CENTURIES}, "lifetime"),
    ],
)
async def test_bad_wishes_for_a_rotation(auth: Auth, fields: dict[str, Any], param: str) -> None:
    error = await refused(rotate(auth, (await auth.make()).resource.name, **fields))
    assert (error.reason, error.param) == (Reason.ARGUMENT_INVALID, param)


async def test_a_key_that_no_timestamp_can_hold_is_not_made(auth: Auth) -> None:
    error = await refused(auth.make(lifetime=CENTURIES))
    assert (error.reason, error.param) == (Reason.ARGUMENT_INVALID, "lifetime")
    await auth.stub.ListKeys(auth_pb2.ListKeysRequest(), **auth.by("dev"))


# Last use


async def test_when_a_key_was_last_used_is_written_at_the_latest_when_auth_ends(tmp_path: Path) -> None:
    async with running(tmp_path) as auth:
        used, unused = await auth.make(), await auth.make()
        await auth.judge(used.key)
        await refused(auth.judge(unused.key[:-1] + ("a" if unused.key[-1] != "a" else "b")))
    async with running(tmp_path) as auth:
        found = [
            (await auth.stub.GetKey(auth_pb2.GetKeyRequest(name=made.resource.name), **auth.by("dev"))).key
            for made in (used, unused)
        ]
    assert [key.HasField("last_use_time") for key in found] == [True, False], "a wrong secret is no use"
    assert found[0].last_use_time.ToMilliseconds() >= found[0].create_time.ToMilliseconds()


# Denials


async def test_a_denied_principal_is_refused_by_whatever_credential(auth: Auth) -> None:
    made, other = await auth.make(), await auth.make()
    denial = await deny(auth, "users/ada")
    assert (denial.principal, denial.comment) == ("users/ada", "left")
    for key in (made.key, other.key):
        assert (await refused(auth.judge(key))).reason is Reason.IDENTITY_FORBIDDEN
    listed = (await auth.stub.ListDenials(auth_pb2.ListDenialsRequest(), **auth.by("dev"))).denials
    assert list(listed) == [denial]
    await admit(auth, "users/ada")
    await auth.judge(made.key)
    error = await outcome(admit(auth, "users/ada"))
    assert error is not None
    assert error.reason is Reason.RESOURCE_NOT_FOUND


async def test_a_denied_worker_gets_no_session_token_by_any_way(auth: Auth) -> None:
    made = await auth.make(**WORKER)
    by_key = (await auth.issue(made.key, ENDPOINT, "run-1")).token
    enrolment = (await auth.enrol("start-1")).token
    by_start = (await auth.issue(enrolment, ENDPOINT, "run-2")).token
    for worker in ("workers/w", "workers/start-1"):
        await deny(auth, worker)
    assert (await refused(auth.issue(made.key, ENDPOINT, "run-1"))).reason is Reason.IDENTITY_FORBIDDEN
    assert (await refused(auth.issue(by_key))).reason is Reason.IDENTITY_FORBIDDEN
    assert (await refused(auth.issue(by_start))).reason is Reason.IDENTITY_FORBIDDEN
    assert (await refused(auth.issue(enrolment, ENDPOINT, "run-2"))).reason is Reason.IDENTITY_FORBIDDEN


async def test_a_denied_administrator_administers_nothing_and_nobody_denies_themselves(auth: Auth) -> None:
    for own in ("users/dev", "users/Dev"):
        error = await refused(deny(auth, own))
        assert (error.reason, error.param) == (Reason.ACTION_FORBIDDEN, "principal")
    other = await auth.make(principal="users/root", roles=[auth_pb2.ROLE_ADMIN])
    await deny(auth, "users/root")
    call = auth.stub.ListKeys(auth_pb2.ListKeysRequest(), metadata=bearer(other.key), timeout=TIMEOUT)
    assert (await refused(call)).reason is Reason.IDENTITY_FORBIDDEN


@pytest.mark.parametrize("principal", ["", "ada", "groups/g"])
async def test_bad_wishes_for_a_denial(auth: Auth, principal: str) -> None:
    for call in (deny(auth, principal), admit(auth, principal)):
        assert (await refused(call)).reason is Reason.ARGUMENT_INVALID


# Session tokens


async def test_a_stolen_token_speaks_for_its_own_endpoint_and_instance_alone(auth: Auth) -> None:
    token = (await auth.issue((await auth.make(**WORKER)).key, ENDPOINT, "run-1")).token
    for endpoint, instance in (("clusters/local/endpoints/gpu", "run-1"), (ENDPOINT, "run-2")):
        assert (await refused(auth.issue(token, endpoint, instance))).reason is Reason.ACTION_FORBIDDEN
    assert (await refused(auth.judge(token))).reason is Reason.CREDENTIAL_INVALID, "it calls no model"
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["endpoint"], claims["instance"]) == (ENDPOINT, "run-1")


# Revocations, told


async def test_a_watcher_hears_of_its_own_end_last(auth: Auth) -> None:
    made = await auth.make(principal="services/s", roles=[auth_pb2.ROLE_SERVICE])
    watch = auth.stub.WatchRevocations(auth_pb2.WatchRevocationsRequest(), metadata=bearer(made.key), timeout=TIMEOUT)
    assert (await watch.read()).reset
    await revoke(auth, made.resource.name)
    while not (message := await watch.read()).revocations:
        continue  # a sign of life, as one may come at any time
    assert [one.key for one in message.revocations] == [made.resource.name]
    error = await outcome(watch.read())
    assert error is not None
    assert error.reason is Reason.CREDENTIAL_INVALID


@asynccontextmanager
async def following(auth: Auth) -> AsyncIterator[CachedAuthenticator]:
    """A cache of principals, as a router has it, that follows the revocations of this auth."""
    principals = CachedAuthenticator(auth.stub, lambda: auth.key("service"))
    watcher = RevocationWatcher(auth.stub, lambda: auth.key("service"), forgetting(principals))
    watcher.start()
    try:
        async with asyncio.timeout(TIMEOUT):
            await watcher.connected.wait()
        yield principals
    finally:
        await watcher.close()
        await principals.close()


async def until_forgotten(principals: CachedAuthenticator, credential: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        while principals.peek(credential) is not None:  # noqa: ASYNC110 the event is another service's
            await asyncio.sleep(0.01)


async def test_what_is_revoked_is_forgotten_long_before_its_time(tmp_path: Path) -> None:
    async with running(tmp_path, max_age_s=3600.0) as auth, following(auth) as principals:
        made, other = await auth.make(), await auth.make(principal="users/bob")
        for key in (made.key, other.key):
            await principals.authenticate(key)
        await revoke(auth, made.resource.name)
        await until_forgotten(principals, made.key)
        with pytest.raises(ServiceError):
            await principals.authenticate(made.key)
        assert principals.peek(other.key) is not None
        await rotate(auth, other.resource.name, overlap=Duration(seconds=60))
        await until_forgotten(principals, other.key)
        await principals.authenticate(other.key)


async def test_what_was_revoked_while_auth_was_away_is_not_missed(tmp_path: Path) -> None:
    port = HeldPort()
    settings: dict[str, Any] = {"address": f"127.0.0.1:{port.port}", "max_age_s": 3600.0}
    try:
        async with dial(f"127.0.0.1:{port.port}") as channel, AsyncExitStack() as first:
            auth = await first.enter_async_context(running(tmp_path, **settings))
            watched = replace(auth, channel=channel, stub=auth_pb2_grpc.AuthServiceStub(channel))
            made = await auth.make()
            async with following(watched) as principals:
                await principals.authenticate(made.key)
                await first.aclose()
                await revoke_in(tmp_path, made.resource.name)
                assert principals.peek(made.key) is not None, "what is kept ages as it always does"
                async with running(tmp_path, **settings):
                    await until_forgotten(principals, made.key)
    finally:
        port.close()


async def revoke_in(home: Path, name: str) -> None:
    """As another auth on the same database does."""
    store = KeyStore(open_database("", home / "auth.db", setting="auth.database"))
    await store.revoke(name.removeprefix("keys/"), time.time())
    await store.close()


@requires_part("postgresql")
async def test_of_two_auths_on_one_database_each_tells_what_the_other_revokes(
    postgresql_url: str, tmp_path: Path, measured: Measured
) -> None:
    settings: dict[str, Any] = {"database": postgresql_url, "max_age_s": 3600.0}
    async with running(tmp_path, **settings) as one, running(tmp_path, **settings) as other:
        made = await one.make()
        async with following(one) as principals:
            bob = await one.make(principal="users/bob")
            for key, revoked in (
                (made.key, revoke(other, made.resource.name)),
                (bob.key, deny(other, "users/bob")),
            ):
                await principals.authenticate(key)
                began = time.monotonic()
                await revoked
                await until_forgotten(principals, key)
                measured("another auth's revocation is heard", time.monotonic() - began)
