"""What is remembered of callers, and for how long: with an auth and clocks turned by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from weft.auth.v1 import auth_pb2

from services.core.errors import Reason, ServiceError
from services.core.principal import Role
from services.rpc.authenticator import OWN_CREDENTIAL, CachedAuthenticator
from services.rpc.errors import ERROR_METADATA, to_proto

MAX_AGE = 30.0
STALE_FOR = 600.0


def failed(error: ServiceError) -> grpc.aio.AioRpcError:
    """What a stub raises when a server of ours has raised the error."""
    trailing = grpc.aio.Metadata((ERROR_METADATA, to_proto(error).SerializeToString()))
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAUTHENTICATED, grpc.aio.Metadata(), trailing, error.message)


AWAY = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "refused")
INVALID = failed(ServiceError(Reason.CREDENTIAL_INVALID))
OWN_KEY_REFUSED = failed(ServiceError(Reason.CREDENTIAL_INVALID, param=OWN_CREDENTIAL))


@dataclass
class FakeAuth:
    """Answers every credential, or raises `error`; holds its answers back while `gate` is not set."""

    error: grpc.RpcError | None = None
    expires_at: float | None = None
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def Authenticate(  # noqa: N802
        self, request: auth_pb2.AuthenticateRequest, **_: Any
    ) -> auth_pb2.AuthenticateResponse:
        self.asked.append(request.credential)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        principal = auth_pb2.Principal(name="users/ada", roles=[auth_pb2.ROLE_USER, 99])
        answer = auth_pb2.AuthenticateResponse(principal=principal)
        answer.max_age.FromMilliseconds(int(MAX_AGE * 1000))
        if self.expires_at is not None:
            answer.expire_time.FromMilliseconds(int(self.expires_at * 1000))
        return answer


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def auth() -> FakeAuth:
    return FakeAuth()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def authenticator(auth: FakeAuth, clock: Clock) -> AsyncIterator[CachedAuthenticator]:
    made = make(auth, clock)
    yield made
    await made.close()


def make(
    auth: Any, clock: Clock, service_key: Callable[[], str] = lambda: "service", **how: Any
) -> CachedAuthenticator:
    return CachedAuthenticator(auth, service_key, stale_for=STALE_FOR, clock=clock, wall_clock=clock, **how)


async def turns() -> None:
    """Lets everything that can run, run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def reason_of(authenticator: CachedAuthenticator, credential: str | None) -> Reason:
    with pytest.raises(ServiceError) as caught:
        async with asyncio.timeout(10):  # a lookup that should not have begun may wait for ever
            await authenticator.authenticate(credential)
    return caught.value.reason


async def test_a_known_caller_is_not_asked_for_again(authenticator: CachedAuthenticator, auth: FakeAuth) -> None:
    first = await authenticator.authenticate("key")
    assert (first.name, first.roles) == ("users/ada", frozenset({Role.USER})), "a role from a newer auth is left out"
    for _ in range(100):
        assert authenticator.peek("key") == first
        assert await authenticator.authenticate("key") == first
    assert auth.asked == ["key"]


async def test_no_credential_asks_nobody(authenticator: CachedAuthenticator, auth: FakeAuth) -> None:
    assert await reason_of(authenticator, None) is Reason.CREDENTIAL_MISSING
    assert auth.asked == []


async def test_refreshed_in_the_background_at_half_life(
    authenticator: CachedAuthenticator, auth: FakeAuth, clock: Clock
) -> None:
    await authenticator.authenticate("key")
    clock.now += MAX_AGE / 2 - 0.1
    await authenticator.authenticate("key")
    await turns()
    assert len(auth.asked) == 1
    clock.now += 0.1
    auth.gate.clear()
    await asyncio.wait_for(authenticator.authenticate("key"), 5)  # does not wait for the refresh, which is held back
    authenticator.peek("key")
    await turns()
    assert len(auth.asked) == 2, "one refresh at a time"
    auth.gate.set()
    await turns()
    clock.now += MAX_AGE / 2 - 0.1
    assert authenticator.peek("key") is not None
    await turns()
    assert len(auth.asked) == 2


async def test_a_revocation_is_effective_within_max_age(
    authenticator: CachedAuthenticator, auth: FakeAuth, clock: Clock
) -> None:
    await authenticator.authenticate("key")
    auth.error = INVALID
    clock.now += MAX_AGE
    assert authenticator.peek("key") is None
    assert await reason_of(authenticator, "key") is Reason.CREDENTIAL_INVALID


async def test_a_revocation_is_found_by_the_background_refresh(
    authenticator: CachedAuthenticator, auth: FakeAuth, clock: Clock
) -> None:
    await authenticator.authenticate("key")
    auth.error = INVALID
    clock.now += MAX_AGE / 2
    await authenticator.authenticate("key")
    await turns()
    assert await reason_of(authenticator, "key") is Reason.CREDENTIAL_INVALID


async def test_max_age_counts_from_the_question(
    authenticator: CachedAuthenticator, auth: FakeAuth, clock: Clock
) -> None:
    auth.gate.clear()
    asking = asyncio.ensure_future(authenticator.authenticate("key"))
    await turns()
    clock.now += MAX_AGE  # the key may have been revoked at any time since auth looked
    auth.gate.set()
    await asking
    assert authenticator.peek("key") is None


async def test_while_auth_is_away_the_known_stay_known(
    authenticator: CachedAuthenticator, auth: FakeAuth, clock: Clock
) -> None:
    await authenticator.authenticate("key")
    auth.error = AWAY
    clock.now += MAX_AGE
    assert (await authenticator.authenticate("key")).name == "users/ada"
    asked = len(auth.asked)
    assert authenticator.peek("key") is not None, "the next caller does not wait for auth once more"
    assert await reason_of(authenticator, "other") is Reason.AUTH_UNAVAILABLE
    assert len(auth.asked) == asked + 1
    clock.now += STALE_FOR
    assert await reason_of(authenticator, "key") is Reason.AUTH_UNAVAILABLE, "not for ever"


async def test_after_auth_was_away_a_revocation_is_effective_within_max_age(
    authenticator: CachedAuthenticator, auth: FakeAuth, clock: Clock
) -> None:
    await authenticator.authenticate("key")
    auth.error = AWAY
    clock.now += MAX_AGE
    await authenticator.authenticate("key")
    auth.error = INVALID
    clock.now += MAX_AGE
    assert await reason_of(authenticator, "key") is Reason.CREDENTIAL_INVALID


async def test_a_key_that_expires_is_not_kept_beyond_that_while_auth_is_away(
    authenticator: CachedAuthenticator, auth: FakeAuth, clock: Clock
) -> None:
    auth.expires_at = clock.now + MAX_AGE
    await authenticator.authenticate("key")
    auth.error = AWAY
    clock.now += MAX_AGE
    assert await reason_of(authenticator, "key") is Reason.AUTH_UNAVAILABLE


async def test_our_own_key_refused_blames_no_caller(
    authenticator: CachedAuthenticator, auth: FakeAuth, clock: Clock
) -> None:
    await authenticator.authenticate("key")
    auth.error = OWN_KEY_REFUSED
    clock.now += MAX_AGE
    assert (await authenticator.authenticate("key")).name == "users/ada"
    assert await reason_of(authenticator, "other") is Reason.AUTH_UNAVAILABLE


async def test_our_own_key_unreadable_blames_no_caller(auth: FakeAuth, clock: Clock) -> None:
    def unreadable() -> str:
        raise FileNotFoundError("service.key")

    authenticator = make(auth, clock, unreadable)
    assert await reason_of(authenticator, "key") is Reason.AUTH_UNAVAILABLE


async def test_a_refusal_is_remembered_for_a_while(
    authenticator: CachedAuthenticator, auth: FakeAuth, clock: Clock
) -> None:
    auth.error = INVALID
    for _ in range(10):
        assert await reason_of(authenticator, "wrong") is Reason.CREDENTIAL_INVALID
    assert auth.asked == ["wrong"]
    auth.error = None
    clock.now += 5.0
    assert (await authenticator.authenticate("wrong")).name == "users/ada"


async def test_whom_a_refusal_names_is_remembered(authenticator: CachedAuthenticator, auth: FakeAuth) -> None:
    auth.error = failed(ServiceError(Reason.IDENTITY_FORBIDDEN, principal="users/eve"))
    errors = await asyncio.gather(*(authenticator.authenticate("hers") for _ in range(2)), return_exceptions=True)
    with pytest.raises(ServiceError) as later:
        await authenticator.authenticate("hers")
    assert {error.principal for error in (*errors, later.value)} == {"users/eve"}  # type: ignore[union-attr]
    assert auth.asked == ["hers"]


async def test_callers_at_once_share_one_lookup_and_one_may_leave(
    authenticator: CachedAuthenticator, auth: FakeAuth
) -> None:
    auth.gate.clear()
    callers = [asyncio.ensure_future(authenticator.authenticate("key")) for _ in range(5)]
    await turns()
    callers[0].cancel()
    await turns()
    auth.gate.set()
    assert {principal.name for principal in await asyncio.gather(*callers[1:])} == {"users/ada"}
    assert callers[0].cancelled()
    assert auth.asked == ["key"]


async def test_memory_is_bounded(auth: FakeAuth, clock: Clock) -> None:
    authenticator = make(auth, clock, capacity=3)
    await authenticator.authenticate("good")
    auth.error = INVALID
    for number in range(10):
        assert await reason_of(authenticator, f"wrong-{number}") is Reason.CREDENTIAL_INVALID
    assert authenticator.peek("good") is not None, "wrong keys push out none that is good"
    auth.error = None
    for number in range(3):
        await authenticator.authenticate(f"good-{number}")
    assert authenticator.peek("good") is None


async def test_a_flood_of_wrong_keys_leaves_auth_time_for_those_who_are_known(auth: FakeAuth, clock: Clock) -> None:
    authenticator = make(auth, clock, waiting=3)
    await authenticator.authenticate("good")
    clock.now += 20.0  # more than half of what auth allows
    auth.gate.clear()
    waiting = [asyncio.ensure_future(authenticator.authenticate(f"slow-{number}")) for number in range(3)]
    await turns()
    with pytest.raises(ServiceError) as caught:
        await authenticator.authenticate("one more")
    assert (caught.value.reason, caught.value.retry_after) == (Reason.OVERLOADED, 1.0)
    assert authenticator.peek("good") is not None
    await turns()
    assert auth.asked[-1] == "good", "who is known is asked about all the same"
    await authenticator.close()
    assert all(caller.cancelled() for caller in (await asyncio.wait(waiting))[0])
