"""Who gets past the boundary of a server, and how errors leave it: over a real socket."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from weft.auth.v1 import auth_pb2

from services.auth.servicer import ACCESS
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal, Role
from services.rpc.boundary import Boundary, Open, caller
from services.rpc.channel import bearer, dial
from services.rpc.errors import from_rpc_error
from services.rpc.server import GrpcServer, check_health
from services.rpc.status import STATUS_METADATA

SERVICE = "test.Service"
TIMEOUT = 20.0


class Authenticator:
    async def authenticate(self, credential: str | None) -> Principal:
        if credential is None:
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        return Principal(f"users/{credential}", frozenset({Role[credential.upper()]}))


async def who(request: bytes, context: Any) -> bytes:
    return caller().name.encode()


async def everybody(request: bytes, context: Any) -> bytes:
    return b"hello"


async def crash(request: bytes, context: Any) -> bytes:
    raise KeyError("weft_0123_the-secret")


async def refuse(request: bytes, context: Any) -> bytes:
    raise ServiceError(Reason.ARGUMENT_INVALID, "'size' must be positive.", param="size", retry_after=1.5)


async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield caller().name.encode()
    raise KeyError("weft_0123_the-secret")


METHODS: dict[str, Any] = {
    "Who": grpc.unary_unary_rpc_method_handler(who),
    "Everybody": grpc.unary_unary_rpc_method_handler(everybody),
    "Crash": grpc.unary_unary_rpc_method_handler(crash),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Forgotten": grpc.unary_unary_rpc_method_handler(everybody),
    "Stream": grpc.unary_stream_rpc_method_handler(stream),
}
TABLE = {
    f"/{SERVICE}/Who": frozenset({Role.ADMIN, Role.SERVICE}),
    f"/{SERVICE}/Everybody": Open.TO_ALL,
    f"/{SERVICE}/Crash": frozenset({Role.ADMIN}),
    f"/{SERVICE}/Refuse": frozenset({Role.ADMIN}),
    f"/{SERVICE}/Stream": frozenset({Role.ADMIN}),
}

Call = Callable[..., Any]


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    handlers = (grpc.method_handlers_generic_handler(SERVICE, METHODS),)
    register = [lambda server: server.add_generic_rpc_handlers(handlers)]
    server = GrpcServer("127.0.0.1:0", Boundary(TABLE, Authenticator()), [SERVICE], register)
    await server.start()
    async with dial(server.address) as channel:
        yield channel
    await server.stop(0)


async def call(channel: grpc.aio.Channel, method: str, role: str | None) -> bytes:
    metadata = bearer(role) if role else None
    answer: bytes = await channel.unary_unary(f"/{SERVICE}/{method}")(b"", metadata=metadata, timeout=TIMEOUT)
    return answer


async def failure(channel: grpc.aio.Channel, method: str, role: str | None) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, method, role)
    return caught.value


def reason(error: grpc.aio.AioRpcError) -> Reason:
    return from_rpc_error(error, unavailable=Reason.ROUTER_UNAVAILABLE).reason


async def test_the_table_decides(channel: grpc.aio.Channel) -> None:
    assert await call(channel, "Who", "admin") == b"users/admin"
    assert await call(channel, "Who", "service") == b"users/service"
    assert await call(channel, "Everybody", None) == b"hello"
    assert reason(await failure(channel, "Who", "user")) is Reason.ACTION_FORBIDDEN
    missing = await failure(channel, "Who", None)
    assert (missing.code(), reason(missing)) == (grpc.StatusCode.UNAUTHENTICATED, Reason.CREDENTIAL_MISSING)


async def test_a_method_that_is_not_in_the_table_is_closed(channel: grpc.aio.Channel) -> None:
    for role in ("admin", "service", "user"):
        assert reason(await failure(channel, "Forgotten", role)) is Reason.ACTION_FORBIDDEN
    assert (await failure(channel, "Forgotten", None)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_method_that_does_not_exist_is_unimplemented(channel: grpc.aio.Channel) -> None:
    assert (await failure(channel, "Nothing", "admin")).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_needs_no_key(channel: grpc.aio.Channel) -> None:
    assert not await check_health(channel, SERVICE, timeout=TIMEOUT), "not ready yet, but it answers"


async def test_an_unexpected_error_shows_nothing_of_itself(channel: grpc.aio.Channel) -> None:
    error = await failure(channel, "Crash", "admin")
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, Reason.INTERNAL)
    assert "secret" not in f"{error.details()}{error.debug_error_string()}{error.trailing_metadata()}"


async def test_a_stream_is_checked_and_its_crash_shows_nothing(channel: grpc.aio.Channel) -> None:
    opened = channel.unary_stream(f"/{SERVICE}/Stream")
    answers = opened(b"", metadata=bearer("admin"), timeout=TIMEOUT)
    assert await answers.read() == b"users/admin"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers.read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await opened(b"", metadata=bearer("user"), timeout=TIMEOUT).read()
    assert reason(caught.value) is Reason.ACTION_FORBIDDEN


async def test_the_rich_status_names_reason_field_and_pause(channel: grpc.aio.Channel) -> None:
    error = await failure(channel, "Refuse", "admin")
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "'size' must be positive.")
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())[STATUS_METADATA])  # type: ignore[arg-type]
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    for detail, packed in zip((info, retry, bad), status.details, strict=True):
        assert packed.Unpack(detail)
    assert (info.reason, info.domain) == ("ARGUMENT_INVALID", "weft")
    assert retry.retry_delay.ToMilliseconds() == 1500
    assert bad.field_violations[0].field == "size"


def test_every_method_of_auth_has_its_access() -> None:
    service = auth_pb2.DESCRIPTOR.services_by_name["AuthService"]
    assert set(ACCESS) == {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert Open.TO_ALL not in ACCESS.values()
