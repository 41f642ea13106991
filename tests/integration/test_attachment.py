"""Who may refuse a worker for good: a router, and nothing that stands before it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from weft.session.v1 import frame_pb2, session_pb2, session_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.rpc import attachment as attachments
from services.rpc.attachment import Attachment, Credential, RefusedError
from services.rpc.errors import ERROR_METADATA, to_proto
from services.rpc.limits import MuxLimits
from services.upstream.http import HttpInference
from tests.testing.processes import SOON

OURS = ServiceError(Reason.ACTION_FORBIDDEN, "The start 's' was revoked; its worker must end.")


class Refusing(session_pb2_grpc.SessionServiceServicer):
    """First a load balancer that lets nobody through, then a router that knows what it says."""

    Connect = RenewToken = ListSessions = StopSession = None  # type: ignore[assignment] # nobody gets so far

    def __init__(self) -> None:
        self.asked = 0

    async def Enrol(self, request: Any, context: Any) -> session_pb2.EnrolResponse:  # noqa: N802
        self.asked += 1
        status = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)[self.asked % 2]
        ours = ((ERROR_METADATA, to_proto(OURS).SerializeToString()),) if self.asked > 2 else ()
        await context.abort(status, "Received http2 header with status: 403", ours)
        raise AssertionError


class Nobody:
    def attached(self, router: str) -> None:
        raise AssertionError

    def stop(self, stop: frame_pb2.Stop) -> None:
        raise AssertionError

    def refused(self, error: RefusedError) -> None:
        raise AssertionError


def _attachment(port: int, owner: Nobody) -> Attachment:
    inference: HttpInference = None  # type: ignore[assignment] # no call is ever opened
    return Attachment(
        f"127.0.0.1:{port}",
        endpoint="clusters/a/endpoints/b",
        instance="i",
        credential=Credential(lambda: "weft_start_x", once=True),
        agent="worker",
        inference=inference,
        limits=MuxLimits(),
        report=frame_pb2.Report,
        owner=owner,
    )


class Slow(session_pb2_grpc.SessionServiceServicer):
    """A router that has other things to do before it reads on."""

    RenewToken = ListSessions = StopSession = None  # type: ignore[assignment] # nobody asks

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.read: list[frame_pb2.Frame] = []
        self.whole = False

    async def Enrol(self, request: Any, context: Any) -> session_pb2.EnrolResponse:  # noqa: N802
        answer = session_pb2.EnrolResponse(token="t")
        answer.expire_time.FromSeconds(int(time.time()) + 600)
        return answer

    async def Connect(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        await context.read()
        hello = frame_pb2.Frame(hello=frame_pb2.Hello(version=1, agent="router"))
        await context.write(session_pb2.ConnectResponse(frames=[hello]))
        await self.may_read.wait()
        while (message := await context.read()) is not grpc.aio.EOF:
            self.read.extend(message.frames)
        self.whole = True


class Owner(Nobody):
    def __init__(self) -> None:
        self.in_session = asyncio.Event()

    def attached(self, router: str) -> None:
        self.in_session.set()


async def test_whoever_leaves_waits_until_all_that_was_written_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "_FAREWELL", SOON)  # Else it leaves without, if this process stands still.
    router, server, owner = Slow(), grpc.aio.server(), Owner()
    session_pb2_grpc.add_SessionServiceServicer_to_server(router, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    attachment = _attachment(port, owner)
    running = asyncio.ensure_future(attachment.run())
    try:
        async with asyncio.timeout(SOON):
            await owner.in_session.wait()
            attachment.drain(1.0)
            await attachment.settle()
            leaving = asyncio.ensure_future(attachment.leave())
            await asyncio.wait((leaving,), timeout=0.2)
            assert not leaving.done(), "what is cancelled now is not read: the ends of answers were lost so"
            router.may_read.set()
            await leaving
            assert router.whole
            assert router.read[-1].WhichOneof("kind") == "drain"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.stop(None)


async def test_a_load_balancer_that_refuses_is_tried_again_and_a_router_is_not() -> None:
    router, server = Refusing(), grpc.aio.server()
    session_pb2_grpc.add_SessionServiceServicer_to_server(router, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    attachment = _attachment(port, Nobody())
    try:
        with pytest.raises(RefusedError, match="was revoked") as caught:
            await asyncio.wait_for(attachment.run(), SOON)
    finally:
        await server.stop(None)
    assert (caught.value.reason, router.asked) == (Reason.ACTION_FORBIDDEN, 3)
    assert "Something on the way to the router" in str(attachment.trouble)
    assert attachment.trouble is not None
    assert attachment.trouble.reason is Reason.ROUTER_UNAVAILABLE
