"""Revocation reaches routers that run: callers with open connections, and workers that are attached.

Auth allows routers to keep an hour what they know, so that nothing here is due to its age.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import grpc
import pytest
from weft.auth.v1 import auth_pb2
from weft.session.v1 import frame_pb2, session_pb2

from services.auth.keys import split
from services.core.errors import Reason
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error
from tests.integration.conftest import Measured
from tests.testing.calls import WHOLE, Call
from tests.testing.everybody.outcomes import wrote_too_late
from tests.testing.mesh import ENDPOINT, Mesh, MeshOptions, Stubs, hold, let_go
from tests.testing.processes import SOON

HOUR = {"max_age_s": 3600.0}
MODELS = "/v1/models"


@pytest.fixture(scope="module")
def strict_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh of one worker, whose tokens are slow to come, and whose router keeps for long what it knows."""
    mesh = hold(tmp_path_factory.mktemp("weft"), MeshOptions(auth=HOUR, sim=("--inter-token-s", "0.02")))
    try:
        asyncio.run(mesh.start())
        yield mesh
    finally:
        let_go(mesh)


@pytest.fixture
async def client(strict_mesh: Mesh) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that keeps its one connection."""
    async with aiohttp.ClientSession(strict_mesh.url, connector=aiohttp.TCPConnector(limit=1)) as session:
        yield session


async def make_key(stubs: Stubs, principal: str = "users/ada") -> auth_pb2.CreateKeyResponse:
    made: auth_pb2.CreateKeyResponse = await stubs.auth.CreateKey(
        auth_pb2.CreateKeyRequest(principal=principal), **stubs.call
    )
    return made


async def deny(stubs: Stubs, principal: str) -> None:
    await stubs.auth.DenyPrincipal(auth_pb2.DenyPrincipalRequest(principal=principal), **stubs.call)


async def admit(stubs: Stubs, principal: str) -> None:
    await stubs.auth.AdmitPrincipal(auth_pb2.AdmitPrincipalRequest(principal=principal), **stubs.call)


async def status(client: aiohttp.ClientSession, key: str) -> int:
    async with client.get(MODELS, headers={"Authorization": f"Bearer {key}"}) as answer:
        await answer.read()
        return answer.status


async def test_a_revoked_key_is_refused_on_the_connection_that_it_has(
    strict_mesh: Mesh, client: aiohttp.ClientSession, measured: Measured
) -> None:
    async with strict_mesh.stubs() as stubs:
        made, other = await make_key(stubs), await make_key(stubs)
        for key in (made.key, other.key):
            assert await status(client, key) == 200
        began = time.monotonic()
        await stubs.auth.RevokeKey(auth_pb2.RevokeKeyRequest(name=made.resource.name), **stubs.call)
        await strict_mesh.until(
            lambda: status(client, made.key), lambda seen: seen == 401, "the router refuses the revoked key"
        )
        measured("a revoked key is refused", time.monotonic() - began)
        assert await status(client, other.key) == 200


async def test_a_denied_user_begins_no_call_and_those_under_way_end(
    strict_mesh: Mesh, client: aiohttp.ClientSession, measured: Measured
) -> None:
    async with strict_mesh.stubs() as stubs:
        made = await make_key(stubs, "users/bob")
        under_way = Call(strict_mesh, stream=True, tokens=500, key=made.key)  # ten seconds, to be denied within them
        await under_way.begun()
        began = time.monotonic()
        await deny(stubs, "users/bob")
        await strict_mesh.until(
            lambda: status(client, made.key), lambda seen: seen == 403, "the router refuses the denied user"
        )
        measured("a denied user is refused", time.monotonic() - began)
        assert not under_way.over, "the denial came while it was under way"
        assert await under_way.ending() == WHOLE
        await admit(stubs, "users/bob")
        await strict_mesh.until(
            lambda: status(client, made.key), lambda seen: seen == 200, "the router takes the user again"
        )


async def test_a_denied_worker_is_cut_off_and_comes_back_when_it_is_admitted(
    strict_mesh: Mesh, measured: Measured
) -> None:
    async with strict_mesh.stubs() as stubs:
        (attached,) = await strict_mesh.sessions()
        began = time.monotonic()
        await deny(stubs, "workers/local")
        await strict_mesh.until(strict_mesh.sessions, lambda seen: not seen, "the worker's session ends")
        measured("a denied worker is cut off", time.monotonic() - began)
        await admit(stubs, "workers/local")
        await strict_mesh.until_attached(1)
        (again,) = await strict_mesh.sessions()
        assert again.instance == attached.instance


async def test_a_revoked_worker_key_ends_sessions_and_its_tokens_are_worth_nothing_to_any_router(
    strict_mesh: Mesh,
) -> None:
    key = (strict_mesh.home / "worker.key").read_text().strip()
    parts = split(key)
    assert parts is not None
    async with strict_mesh.stubs() as stubs:
        enrol = session_pb2.EnrolRequest(endpoint=ENDPOINT, instance="thief")
        token = (await stubs.session.Enrol(enrol, metadata=bearer(key), timeout=SOON)).token
        await stubs.auth.RevokeKey(auth_pb2.RevokeKeyRequest(name=f"keys/{parts[0]}"), **stubs.call)
        await strict_mesh.until(strict_mesh.sessions, lambda seen: not seen, "the worker's session ends")
        assert await why_refused(stubs, token) is Reason.CREDENTIAL_INVALID
    await strict_mesh.router.restart()  # the next one was not there when it was revoked
    async with strict_mesh.stubs() as stubs:
        assert await why_refused(stubs, token) is Reason.CREDENTIAL_INVALID


async def why_refused(stubs: Stubs, token: str) -> Reason:
    """How a session with this token ends."""
    session = stubs.session.Connect(metadata=bearer(token), timeout=SOON)
    try:
        await session.write(session_pb2.ConnectRequest(frames=[frame_pb2.Frame(hello=frame_pb2.Hello(version=1))]))
        while await session.read() is not grpc.aio.EOF:
            continue
    except grpc.aio.AioRpcError as error:
        if wrote_too_late(error):
            return await why_refused(stubs, token)
        return from_rpc_error(error, unavailable=Reason.ROUTER_UNAVAILABLE).reason
    pytest.fail("the session ended in good order")
