"""How revocations are followed: from the first message, through broken streams, silence and other databases."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from weft.auth.v1 import auth_pb2

from services.rpc.revocations import EVERYTHING, Revocation, RevocationKind, RevocationWatcher

SOON = 20.0
ADA = Revocation(RevocationKind.PRINCIPAL, "users/ada")
AWAY = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "refused")


class Stream:
    """One watch, in the hands of the test."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.cancelled = False
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    async def read(self) -> Any:
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    def cancel(self) -> None:
        self.cancelled = True

    def say(self, revision: int, *names: str, reset: bool = False) -> None:
        revocations = [auth_pb2.Revocation(principal=name) for name in names]
        message = auth_pb2.WatchRevocationsResponse(revision=revision, reset=reset, revocations=revocations)
        self._messages.put_nowait(message)

    def end(self, how: Any = grpc.aio.EOF) -> None:
        self._messages.put_nowait(how)


class FakeAuth:
    def __init__(self) -> None:
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()

    def WatchRevocations(self, request: auth_pb2.WatchRevocationsRequest, **_: Any) -> Stream:  # noqa: N802
        stream = Stream(request.revision)
        self.streams.put_nowait(stream)
        return stream

    async def watched(self) -> Stream:
        async with asyncio.timeout(SOON):
            return await self.streams.get()


class Heard:
    """What the watcher handed on."""

    def __init__(self) -> None:
        self._arriving: asyncio.Queue[Revocation] = asyncio.Queue()

    def __call__(self, revocation: Revocation) -> None:
        self._arriving.put_nowait(revocation)

    async def next(self, count: int) -> list[Revocation]:
        async with asyncio.timeout(SOON):
            return [await self._arriving.get() for _ in range(count)]

    @property
    def nothing_more(self) -> bool:
        return self._arriving.empty()


@pytest.fixture
def auth() -> FakeAuth:
    return FakeAuth()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def watcher(auth: FakeAuth, heard: Heard) -> AsyncIterator[RevocationWatcher]:
    made = RevocationWatcher(auth, lambda: "service", heard)  # type: ignore[arg-type]
    made.start()
    yield made
    await made.close()


async def test_what_was_kept_before_the_first_message_is_forgotten(
    watcher: RevocationWatcher, auth: FakeAuth, heard: Heard
) -> None:
    stream = await auth.watched()
    assert stream.revision == 0
    stream.say(7, "users/ada")
    assert await heard.next(2) == [EVERYTHING, ADA]
    stream.say(7)
    stream.say(8, "users/ada")
    assert await heard.next(1) == [ADA]
    assert heard.nothing_more
    assert watcher.connected.is_set()


@pytest.mark.parametrize("how", [grpc.aio.EOF, AWAY])
async def test_after_a_broken_stream_it_goes_on_where_it_was(
    watcher: RevocationWatcher, auth: FakeAuth, heard: Heard, how: Any
) -> None:
    stream = await auth.watched()
    stream.say(7)
    assert await heard.next(1) == [EVERYTHING]
    stream.end(how)
    again = await auth.watched()
    assert (stream.cancelled, again.revision, watcher.connected.is_set()) == (True, 7, False)
    again.say(9, "users/ada")
    assert await heard.next(1) == [ADA]


async def test_an_auth_that_cannot_tell_what_was_missed_has_all_forgotten(
    watcher: RevocationWatcher, auth: FakeAuth, heard: Heard
) -> None:
    stream = await auth.watched()
    stream.say(7)
    stream.say(3, "users/ada", reset=True)
    assert await heard.next(3) == [EVERYTHING, EVERYTHING, ADA]
    stream.end()
    assert (await auth.watched()).revision == 3


async def test_a_silent_auth_is_taken_for_dead(auth: FakeAuth, heard: Heard) -> None:
    watcher = RevocationWatcher(auth, lambda: "service", heard, silence=0.01)  # type: ignore[arg-type]
    watcher.start()
    first = await auth.watched()
    await auth.watched()
    assert first.cancelled
    await watcher.close()


async def test_a_key_that_cannot_be_read_yet_is_read_again(auth: FakeAuth, heard: Heard) -> None:
    attempts = iter((FileNotFoundError("service.key"), None))

    def service_key() -> str:
        if (error := next(attempts)) is not None:
            raise error
        return "service"

    watcher = RevocationWatcher(auth, service_key, heard)  # type: ignore[arg-type]
    watcher.start()
    await auth.watched()
    await watcher.close()


async def test_a_kind_that_is_not_known_may_be_of_anything(
    watcher: RevocationWatcher, auth: FakeAuth, heard: Heard
) -> None:
    stream = await auth.watched()
    stream.say(7)
    stream._messages.put_nowait(auth_pb2.WatchRevocationsResponse(revision=8, revocations=[auth_pb2.Revocation()]))
    assert await heard.next(2) == [EVERYTHING, EVERYTHING]
