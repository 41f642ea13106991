"""Errors, from what a real server sends."""

import asyncio
import pickle

import grpc
import pytest
from weft.client import (
    AsyncClient,
    Client,
    InvalidRequest,
    Limit,
    NotAllowed,
    RateLimited,
    TimedOut,
    Truncated,
    Unavailable,
    WeftError,
)
from weft.client.errors import ERROR_METADATA, from_rpc
from weft.errors.v1 import errors_pb2

from services.core.errors import GrpcCode, QuotaViolation, Reason, ServiceError
from services.rpc import errors
from tests.unit.client.server import START, Server, said


async def failure(server: Server, error: ServiceError) -> WeftError:
    server.servicer.failures = [error]
    async with AsyncClient(server.address, retry=None) as client:
        with pytest.raises(WeftError) as failed:
            await client.chat("m", "Hi", metadata=[("X-Request-Id", "r-1")])
    return failed.value


async def test_all_of_an_error_arrives(server: Server) -> None:
    error = await failure(
        server,
        ServiceError(
            Reason.TOKENS_EXHAUSTED,
            "Too much.",
            retry_after=12.5,
            violations=(QuotaViolation("users/alice", "1000 tokens per minute"),),
            info=(("http_status", "429"), ("type", "Busy")),
        ),
    )
    assert type(error) is RateLimited
    assert (error.reason, error.message, error.retry_after) == ("TOKENS_EXHAUSTED", "Too much.", 12.5)
    assert error.limits == (Limit("users/alice", "1000 tokens per minute"),)
    assert error.info == {"http_status": "429", "type": "Busy"}
    assert (error.request_id, error.code) == ("r-1", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert str(error) == "TOKENS_EXHAUSTED: Too much. (request r-1)"


def test_errors_travel_between_processes() -> None:
    error = NotAllowed("MODEL_FORBIDDEN", "No.", code=grpc.StatusCode.PERMISSION_DENIED, limits=(Limit("a", "b"),))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code, again.limits) == (NotAllowed, str(error), error.code, error.limits)


async def test_the_field_at_fault(server: Server) -> None:
    error = await failure(server, ServiceError(Reason.FIELD_INVALID, param="messages[0].role"))
    assert isinstance(error, InvalidRequest)
    assert error.field == "messages[0].role"
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("code", "retry_after", "kind"),
    [
        (GrpcCode.INVALID_ARGUMENT, None, InvalidRequest),
        (GrpcCode.RESOURCE_EXHAUSTED, None, InvalidRequest),
        (GrpcCode.RESOURCE_EXHAUSTED, 1.0, RateLimited),
        (GrpcCode.PERMISSION_DENIED, None, WeftError),
    ],
)
async def test_what_the_model_server_refuses(
    server: Server, code: GrpcCode, retry_after: float | None, kind: type[WeftError]
) -> None:
    error = await failure(server, ServiceError(Reason.REQUEST_REFUSED, "No.", retry_after=retry_after, grpc=code))
    assert type(error) is kind


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.CREDENTIAL_EXPIRED, NotAllowed),
        (Reason.MODEL_FORBIDDEN, NotAllowed),
        (Reason.MODEL_NOT_FOUND, WeftError),
        (Reason.OVERLOADED, Unavailable),
        (Reason.WORKER_LOST, Unavailable),
        (Reason.BODY_TOO_LARGE, InvalidRequest),
        (Reason.STALL_TIMEOUT, TimedOut),
        (Reason.INTERNAL, WeftError),
    ],
)
async def test_kinds(server: Server, reason: Reason, kind: type[WeftError]) -> None:
    error = await failure(server, ServiceError(reason))
    assert type(error) is kind
    assert error.reason == reason.name


async def test_plain_code_has_the_same(server: Server) -> None:
    server.servicer.failures = [ServiceError(Reason.MODEL_FORBIDDEN, "Not for you.")]

    def ask() -> None:
        with Client(server.address) as client:
            client.chat("m", "Hi")

    with pytest.raises(NotAllowed, match="Not for you"):
        await asyncio.to_thread(ask)


async def test_a_stream_without_an_end_is_truncated(server: Server) -> None:
    server.servicer.pieces = [START, said("Hel")]
    async with AsyncClient(server.address) as client, client.stream_chat("m", "Hi") as stream:
        with pytest.raises(Truncated):
            async for _ in stream:
                pass
        with pytest.raises(Truncated):
            await stream.result()
        assert stream.so_far().choices[0].message.text == "Hel"

    def ask() -> None:
        with Client(server.address) as plain, plain.stream_chat("m", "Hi") as cut:
            list(cut.text())

    with pytest.raises(Truncated):
        await asyncio.to_thread(ask)


class Failed(grpc.RpcError):
    """A failure with these trailers, as proxies and later versions may send it."""

    def __init__(self, code: grpc.StatusCode, details: str, *trailing: tuple[str, str | bytes]) -> None:
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailing


def test_what_a_proxy_refuses_has_the_name_of_its_status() -> None:
    error = from_rpc(Failed(grpc.StatusCode.UNAVAILABLE, "no healthy upstream", ("x-request-id", "p-1")))
    assert (type(error), error.reason, error.request_id) == (Unavailable, "UNAVAILABLE", "p-1")


def test_a_reason_that_is_newer_keeps_its_number() -> None:
    theirs = errors_pb2.Error(reason=errors_pb2.Reason.ValueType(999), message="New.")
    error = from_rpc(Failed(grpc.StatusCode.ABORTED, "", (ERROR_METADATA, theirs.SerializeToString())))
    assert (error.reason, error.message) == ("REASON_999", "New.")


def test_trailers_that_are_no_error_are_passed_over() -> None:
    error = from_rpc(Failed(grpc.StatusCode.INTERNAL, "oh", (ERROR_METADATA, b"\xff\xff")))
    assert (error.reason, error.message) == ("INTERNAL", "oh")


def test_the_metadata_is_the_one_that_servers_send() -> None:
    assert errors.ERROR_METADATA == ERROR_METADATA
