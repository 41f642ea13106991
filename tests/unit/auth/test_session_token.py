"""Session tokens as routers verify them: with an auth and a clock turned by hand."""

import asyncio
import base64
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import jwt
import pytest
from weft.auth.v1 import auth_pb2

from services.auth.tokens import SigningKey, issue, new_signing_key
from services.core.errors import Reason, ServiceError
from services.rpc.session_token import AUDIENCE, SessionClaims, SessionTokenVerifier

ENDPOINT = "clusters/local/endpoints/sim"
LATER = int(time.time()) + 600
AWAY = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "refused")
SIGNING = new_signing_key()


@dataclass
class FakeAuth:
    """Lists `keys`, or raises `error`; holds its answers back while `gate` is not set."""

    keys: list[SigningKey]
    error: grpc.RpcError | None = None
    asked: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def ListVerificationKeys(self, *_: Any, **__: Any) -> auth_pb2.ListVerificationKeysResponse:  # noqa: N802
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        keys = [auth_pb2.VerificationKey(id=key.id, public_key=key.public_bytes) for key in self.keys]
        return auth_pb2.ListVerificationKeysResponse(keys=keys)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def make(auth: Any, clock: Clock | None = None) -> SessionTokenVerifier:
    return SessionTokenVerifier(auth, lambda: "service", clock=clock or Clock())


def token(signing: SigningKey = SIGNING, expires_at: float = LATER) -> str:
    return issue(signing, SessionClaims(ENDPOINT, "run-1", "workers/w", expires_at, "0123"))


async def reason(verifier: SessionTokenVerifier, text: str) -> Reason:
    with pytest.raises(ServiceError) as caught:
        await verifier.verify(text)
    return caught.value.reason


async def test_a_good_token_says_who_and_is_verified_without_auth() -> None:
    auth = FakeAuth([SIGNING])
    verifier = make(auth)
    assert await verifier.verify(token()) == SessionClaims(ENDPOINT, "run-1", "workers/w", LATER, "0123")
    auth.error = AWAY
    await verifier.verify(token())
    assert auth.asked == 1


async def test_a_token_of_an_enrolled_start_says_which_and_whom_it_serves() -> None:
    claims = SessionClaims(ENDPOINT, "run-1", "workers/start-1", LATER, start="start-1", serves="users/ada")
    assert await make(FakeAuth([SIGNING])).verify(issue(SIGNING, claims)) == claims


async def test_a_token_of_an_auth_that_knows_no_starts_is_good() -> None:
    claims = await make(FakeAuth([SIGNING])).verify(forged())
    assert (claims.key, claims.start, claims.serves) == ("0123", "", "")


def forged(**how: Any) -> str:
    claims = {"sub": "workers/w", "aud": AUDIENCE, "exp": LATER, "endpoint": ENDPOINT, "instance": "i", "key": "0123"}
    claims = {name: value for name, value in {**claims, **how.get("claims", {})}.items() if value is not None}
    key, algorithm = how.get("key", SIGNING.private), how.get("algorithm", "EdDSA")
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": SIGNING.id})


def altered() -> str:
    head, body, signature = token().split(".")
    content = base64.urlsafe_b64decode(body + "==").replace(b"/sim", b"/gpu")
    return ".".join((head, base64.urlsafe_b64encode(content).decode().rstrip("="), signature))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "a.b.c",
        "weft_0123_secret",
        altered(),
        forged(key=new_signing_key().private),
        forged(key=None, algorithm="none"),
        forged(key=base64.b64encode(SIGNING.public_bytes).decode(), algorithm="HS256"),
        forged(claims={"aud": "another"}),
        forged(claims={"aud": None}),
        forged(claims={"exp": None}),
        forged(claims={"endpoint": None}),
        forged(claims={"key": None}),
    ],
)
async def test_what_is_no_token_of_ours(text: str) -> None:
    assert await reason(make(FakeAuth([SIGNING])), text) is Reason.CREDENTIAL_INVALID


async def test_an_expired_token() -> None:
    assert await reason(make(FakeAuth([SIGNING])), token(expires_at=time.time() - 1)) is Reason.CREDENTIAL_EXPIRED


async def test_a_new_signing_key_is_fetched_but_invented_ones_are_no_flood() -> None:
    auth, clock, fresh = FakeAuth([SIGNING]), Clock(), new_signing_key()
    verifier = make(auth, clock)
    await verifier.verify(token())
    auth.keys = [fresh, SIGNING]
    clock.now += 60
    for _ in range(20):
        assert await reason(verifier, token(new_signing_key())) is Reason.CREDENTIAL_INVALID
    assert auth.asked == 2
    await verifier.verify(token(fresh))
    await verifier.verify(token())
    assert auth.asked == 2


async def test_a_key_that_may_be_younger_than_what_is_known_is_not_called_invalid() -> None:
    auth, clock, fresh = FakeAuth([SIGNING]), Clock(), new_signing_key()
    verifier = make(auth, clock)
    assert await reason(verifier, token(new_signing_key())) is Reason.CREDENTIAL_INVALID
    auth.keys = [fresh, SIGNING]
    clock.now += 1
    assert await reason(verifier, token(fresh)) is Reason.AUTH_UNAVAILABLE, "auth was asked a moment ago, not since"
    assert auth.asked == 1
    clock.now += 4
    await verifier.verify(token(fresh))


async def test_a_key_that_auth_has_removed_verifies_no_more() -> None:
    auth, clock, fresh = FakeAuth([SIGNING]), Clock(), new_signing_key()
    verifier = make(auth, clock)
    await verifier.verify(token())
    auth.error = AWAY
    clock.now += 300
    await verifier.verify(token())
    auth.error, auth.keys = None, [fresh]
    clock.now += 1
    assert await reason(verifier, token()) is Reason.CREDENTIAL_INVALID


async def test_many_at_once_fetch_once() -> None:
    auth = FakeAuth([SIGNING])
    auth.gate.clear()
    verifier = make(auth)
    callers = [asyncio.ensure_future(verifier.verify(token())) for _ in range(5)]
    await asyncio.sleep(0)
    auth.gate.set()
    assert len({claims.instance for claims in await asyncio.gather(*callers)}) == 1
    assert auth.asked == 1


async def test_one_who_leaves_does_not_take_the_others_along() -> None:
    auth = FakeAuth([SIGNING])
    auth.gate.clear()
    verifier = make(auth)
    leaving, staying = (asyncio.ensure_future(verifier.verify(token())) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    auth.gate.set()
    assert (await staying).endpoint == ENDPOINT


async def test_auth_away_is_not_the_tokens_fault_and_is_asked_again() -> None:
    auth, clock = FakeAuth([SIGNING], AWAY), Clock()
    verifier = make(auth, clock)
    for _ in range(5):
        assert await reason(verifier, token()) is Reason.AUTH_UNAVAILABLE
    assert auth.asked == 1, "those who come meanwhile do not wait for auth one after another"
    auth.error = None
    clock.now += 1.0
    await verifier.verify(token())


async def test_our_own_key_unreadable_is_not_the_tokens_fault() -> None:
    def unreadable() -> str:
        raise FileNotFoundError("service.key")

    verifier = SessionTokenVerifier(FakeAuth([SIGNING]), unreadable)  # type: ignore[arg-type]
    assert await reason(verifier, token()) is Reason.AUTH_UNAVAILABLE


def test_a_signing_key_is_not_shown() -> None:
    assert SIGNING.private.private_bytes_raw().hex() not in repr(SIGNING)
    assert repr(SIGNING.private.private_bytes_raw()) not in repr(SIGNING)
