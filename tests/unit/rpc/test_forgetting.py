"""What is revoked is forgotten at once, also by a lookup that is under way: with an auth in the test's hands."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from weft.auth.v1 import auth_pb2

from services.core.errors import Reason, ServiceError
from services.rpc.authenticator import CachedAuthenticator
from services.rpc.errors import ERROR_METADATA, to_proto
from services.rpc.revocations import EVERYTHING, Revocation, RevocationKind, forgetting

SOON = 20.0


def failed(error: ServiceError) -> grpc.aio.AioRpcError:
    """What a stub raises when a server of ours has raised the error."""
    trailing = grpc.aio.Metadata((ERROR_METADATA, to_proto(error).SerializeToString()))
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAUTHENTICATED, grpc.aio.Metadata(), trailing, error.message)


@dataclass
class FakeAuth:
    """Each question waits until the test answers it, by `say`."""

    asked: list[str] = field(default_factory=list)
    questions: asyncio.Queue[asyncio.Future[auth_pb2.AuthenticateResponse]] = field(default_factory=asyncio.Queue)

    async def Authenticate(  # noqa: N802
        self, request: auth_pb2.AuthenticateRequest, **_: Any
    ) -> auth_pb2.AuthenticateResponse:
        self.asked.append(request.credential)
        answer: asyncio.Future[auth_pb2.AuthenticateResponse] = asyncio.get_running_loop().create_future()
        self.questions.put_nowait(answer)
        return await answer

    async def question(self) -> "asyncio.Future[auth_pb2.AuthenticateResponse]":
        async with asyncio.timeout(SOON):
            return await self.questions.get()

    async def say(self, name: str = "users/ada", key: str = "keys/a") -> None:
        (await self.question()).set_result(answer(name, key))

    async def refuse(self, reason: Reason) -> None:
        (await self.question()).set_exception(failed(ServiceError(reason)))


def answer(name: str, key: str) -> auth_pb2.AuthenticateResponse:
    principal = auth_pb2.Principal(name=name, identity=auth_pb2.Identity(subject=key))
    made = auth_pb2.AuthenticateResponse(principal=principal)
    made.max_age.FromSeconds(30)
    return made


@pytest.fixture
def auth() -> FakeAuth:
    return FakeAuth()


@pytest.fixture
async def principals(auth: FakeAuth) -> AsyncIterator[CachedAuthenticator]:
    made = CachedAuthenticator(auth, lambda: "service")  # type: ignore[arg-type]
    yield made
    await made.close()


async def known(principals: CachedAuthenticator, auth: FakeAuth, credential: str, name: str, key: str) -> None:
    looking = asyncio.ensure_future(principals.authenticate(credential))
    await auth.say(name, key)
    await looking


@pytest.mark.parametrize(
    ("revocation", "left"),
    [
        (Revocation(RevocationKind.KEY, "keys/a"), ["a2", "b"]),
        (Revocation(RevocationKind.PRINCIPAL, "users/ada"), ["b"]),
        (Revocation(RevocationKind.CHANGED, "users/ada"), ["b"]),
        (Revocation(RevocationKind.START, "start-1"), ["a", "a2", "b"]),
        (Revocation(RevocationKind.KEY, "keys/other"), ["a", "a2", "b"]),
        (EVERYTHING, []),
    ],
)
async def test_each_revocation_is_of_those_whom_it_names(
    principals: CachedAuthenticator, auth: FakeAuth, revocation: Revocation, left: list[str]
) -> None:
    for credential, name, key in (("a", "users/ada", "keys/a"), ("a2", "users/ada", "keys/a2"), ("b", "users/b", "")):
        await known(principals, auth, credential, name, key)
    forgetting(principals)(revocation)
    assert [credential for credential in ("a", "a2", "b") if principals.peek(credential) is not None] == left


async def test_denials_are_told_in_small_letters(principals: CachedAuthenticator, auth: FakeAuth) -> None:
    await known(principals, auth, "a", "users/Ada@ANL.gov", "keys/a")
    forgetting(principals)(Revocation(RevocationKind.PRINCIPAL, "users/ada@anl.gov"))
    assert principals.peek("a") is None


@pytest.mark.parametrize(
    "revocation",
    [Revocation(RevocationKind.KEY, "keys/a"), Revocation(RevocationKind.PRINCIPAL, "users/ada"), EVERYTHING],
)
async def test_an_answer_from_before_its_revocation_is_not_taken(
    principals: CachedAuthenticator, auth: FakeAuth, revocation: Revocation
) -> None:
    looking = asyncio.ensure_future(principals.authenticate("a"))
    question = await auth.question()
    forgetting(principals)(revocation)
    question.set_result(answer("users/ada", "keys/a"))  # on its way since before
    await auth.refuse(Reason.CREDENTIAL_INVALID)
    with pytest.raises(ServiceError) as caught:
        await looking
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert principals.peek("a") is None
    assert auth.asked == ["a", "a"]


async def test_an_answer_about_another_is_taken(principals: CachedAuthenticator, auth: FakeAuth) -> None:
    looking = asyncio.ensure_future(principals.authenticate("a"))
    question = await auth.question()
    principals.forget_key("keys/b")
    principals.forget_principal("users/b")
    question.set_result(answer("users/ada", "keys/a"))
    assert (await looking).name == "users/ada"
    assert auth.asked == ["a"]


async def test_a_refusal_is_forgotten_when_somebody_is_admitted(
    principals: CachedAuthenticator, auth: FakeAuth
) -> None:
    admitted = Revocation(RevocationKind.CHANGED, "users/ada")
    for before in (True, False):  # the refusal was there, or on its way
        looking = asyncio.ensure_future(principals.authenticate("a"))
        question = await auth.question()
        if not before:
            forgetting(principals)(admitted)
        question.set_exception(failed(ServiceError(Reason.IDENTITY_FORBIDDEN)))
        with pytest.raises(ServiceError):
            await looking
        if before:
            forgetting(principals)(admitted)
    await known(principals, auth, "a", "users/ada", "keys/a")
    assert auth.asked == ["a"] * 3


async def test_one_who_was_forgotten_is_not_known_while_auth_is_away(
    principals: CachedAuthenticator, auth: FakeAuth
) -> None:
    await known(principals, auth, "a", "users/ada", "keys/a")
    principals.forget_key("keys/a")
    looking = asyncio.ensure_future(principals.authenticate("a"))
    await auth.refuse(Reason.AUTH_UNAVAILABLE)
    with pytest.raises(ServiceError) as caught:
        await looking
    assert caught.value.reason is Reason.AUTH_UNAVAILABLE
