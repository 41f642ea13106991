"""Who may refuse a worker for good: a router, and nothing that stands before it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from weft.session.v1 import frame_pb2, session_pb2, session_pb2_grpc

from services.core.errors import Reason, ServiceError
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


async def test_a_load_balancer_that_refuses_is_tried_again_and_a_router_is_not() -> None:
    router, server = Refusing(), grpc.aio.server()
    session_pb2_grpc.add_SessionServiceServicer_to_server(router, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    inference: HttpInference = None  # type: ignore[assignment] # no call is ever opened
    attachment = Attachment(
        f"127.0.0.1:{port}",
        endpoint="clusters/a/endpoints/b",
        instance="i",
        credential=Credential(lambda: "weft_start_x", once=True),
        agent="worker",
        inference=inference,
        limits=MuxLimits(),
        report=frame_pb2.Report,
        owner=Nobody(),
    )
    try:
        with pytest.raises(RefusedError, match="was revoked") as caught:
            await asyncio.wait_for(attachment.run(), SOON)
    finally:
        await server.stop(None)
    assert (caught.value.reason, router.asked) == (Reason.ACTION_FORBIDDEN, 3)
    assert "Something on the way to the router" in str(attachment.trouble)
    assert attachment.trouble is not None
    assert attachment.trouble.reason is Reason.ROUTER_UNAVAILABLE
