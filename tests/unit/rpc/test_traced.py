"""RPCs as spans of the trace in whose course they are made: over a real socket."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.core import tracing
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal, Role
from services.core.tracing import Sampling, Span, TraceContext, Tracer
from services.rpc.boundary import Boundary, Open
from services.rpc.channel import bearer, dial
from services.rpc.server import GrpcServer, check_health
from services.rpc.traced import RpcTraces

SERVICE = "test.Service"
TIMEOUT = 20.0
CALL = TraceContext.of("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
UNSAMPLED = TraceContext.of(CALL.trace_id, CALL.span_id, sampled=False)


class Sink:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.arrived = asyncio.Event()

    def record(self, span: Span) -> None:
        self.spans.append(span)
        self.arrived.set()


class Authenticator:
    async def authenticate(self, credential: str | None) -> Principal:
        if credential is None:
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        return Principal(f"users/{credential}", frozenset({Role[credential.upper()]}))


class Handlers:
    """What the server does. `seen` is what was `tracing.current` in each."""

    def __init__(self) -> None:
        self.seen: list[TraceContext | None] = []
        self.begun, self.gone = asyncio.Event(), asyncio.Event()

    async def answer(self, request: bytes, context: Any) -> bytes:
        self.seen.append(tracing.current.get())
        return b"hello"

    async def crash(self, request: bytes, context: Any) -> bytes:
        raise KeyError("x")

    async def away(self, request: bytes, context: Any) -> bytes:
        raise ServiceError(Reason.REGISTRY_UNAVAILABLE)

    async def abort(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        raise AssertionError

    async def hang(self, request: bytes, context: Any) -> bytes:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.gone.set()
        raise AssertionError

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"hello"

    def register(self, server: grpc.aio.Server) -> None:
        names = ("answer", "crash", "away", "abort", "hang")
        methods: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(getattr(self, name)) for name in names}
        methods["guarded"] = grpc.unary_unary_rpc_method_handler(self.answer)
        methods["stream"] = grpc.unary_stream_rpc_method_handler(self.stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        calls: dict[str, Any] = {"Infer": grpc.unary_unary_rpc_method_handler(self.answer)}
        carrier = grpc.method_handlers_generic_handler("weft.inference.v1.InferenceService", calls)
        server.add_generic_rpc_handlers((carrier,))


class Mesh:
    """A server that is traced, and a channel to it."""

    def __init__(self) -> None:
        self.sink, self.handlers = Sink(), Handlers()

    async def open(self, *, per_second: float = 100.0) -> "Mesh":
        tracer = Tracer(self.sink, Sampling(errors_per_second=100))
        names = ("answer", "crash", "away", "abort", "hang", "stream")
        access: Any = {f"/{SERVICE}/{name}": Open.TO_ALL for name in names}
        access |= {f"/{SERVICE}/guarded": frozenset({Role.ADMIN})}
        access |= {"/weft.inference.v1.InferenceService/Infer": Open.TO_ALL}
        traces = RpcTraces(tracer, "registry", per_second=per_second)
        boundary = Boundary(access, Authenticator(), traces=traces)
        self.server = GrpcServer("127.0.0.1:0", boundary, [SERVICE], [self.handlers.register])
        await self.server.start()
        self.channel = dial(self.server.address)
        return self

    async def close(self) -> None:
        await self.channel.close()
        await self.server.stop(0)

    def begin(self, method: str, place: TraceContext | None, *, role: str = "") -> Any:
        """An RPC in the course of a span."""
        path = method if method.startswith("/") else f"/{SERVICE}/{method}"
        token = tracing.current.set(place)
        try:
            start: Any = self.channel.unary_unary(path)
            return start(b"", metadata=bearer(role), timeout=TIMEOUT)
        finally:
            tracing.current.reset(token)

    async def span(self) -> Span:
        """The next one."""
        async with asyncio.timeout(TIMEOUT):
            await self.sink.arrived.wait()
        self.sink.arrived.clear()
        return self.sink.spans.pop()


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    mesh = await Mesh().open()
    yield mesh
    await mesh.close()


async def test_an_rpc_in_a_sampled_trace_is_a_span_under_whoever_made_it(mesh: Mesh) -> None:
    assert await mesh.begin("guarded", CALL, role="admin") == b"hello"
    span = await mesh.span()
    assert (span.context.trace_id, span.parent_id) == (CALL.trace_id, CALL.span_id)
    assert (span.name, span.service, span.kind) == (f"{SERVICE}/guarded", "registry", tracing.Kind.SERVER)
    assert span.attributes == {
        "rpc.system": "grpc",
        "rpc.service": SERVICE,
        "rpc.method": "guarded",
        "rpc.grpc.status_code": 0,
    }
    assert not span.error
    assert span.start_ns <= span.end_ns
    assert mesh.handlers.seen == [span.context], "so that logs, and further RPCs, bear it"


async def test_where_nothing_is_traced_there_is_no_span(mesh: Mesh) -> None:
    await mesh.begin("answer", None)
    await mesh.begin("answer", UNSAMPLED)
    with pytest.raises(grpc.aio.AioRpcError):
        await mesh.begin("crash", None)
    assert not mesh.sink.spans
    assert mesh.handlers.seen[0] is None
    unsampled = mesh.handlers.seen[1]
    assert unsampled is not None
    assert unsampled.trace_id == CALL.trace_id, "its log records can be found all the same"


@pytest.mark.parametrize(
    ("method", "code", "error"),
    [("crash", 13, "internal"), ("away", 14, "registry_unavailable"), ("abort", 15, "data_loss")],
)
async def test_what_the_server_fails_of_is_kept_in_any_trace(mesh: Mesh, method: str, code: int, error: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await mesh.begin(method, UNSAMPLED)
    span = await mesh.span()
    assert (span.attributes["rpc.grpc.status_code"], span.error) == (code, error)


async def test_what_its_caller_is_to_blame_for_is_no_error_of_the_server(mesh: Mesh) -> None:
    for place in (UNSAMPLED, CALL):
        with pytest.raises(grpc.aio.AioRpcError):
            await mesh.begin("guarded", place)
    span = await mesh.span()
    assert (span.attributes["rpc.grpc.status_code"], span.error) == (16, "")
    assert not mesh.sink.spans


async def test_an_rpc_whose_caller_leaves_is_cancelled_and_no_error(mesh: Mesh) -> None:
    call = mesh.begin("hang", CALL)
    waiting = asyncio.ensure_future(call.code())  # has it sent
    await mesh.handlers.begun.wait()
    call.cancel()
    span = await mesh.span()
    assert (span.attributes["rpc.grpc.status_code"], span.attributes["weft.outcome"]) == (1, "cancelled")
    assert not span.error
    assert await waiting is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize(
    ("left", "code", "error"), [(0.0, 4, "deadline_exceeded"), (3.0, 1, ""), (None, 1, "")], ids=str
)
def test_an_rpc_that_is_cancelled_because_it_is_late_says_so(left: float | None, code: int, error: str) -> None:
    """Without a socket: on a busy machine the time may be over before the server hears of the RPC."""

    class Context:
        def time_remaining(self) -> float | None:
            return left

    sink = Sink()
    traces = RpcTraces(Tracer(sink, Sampling()), "registry")
    metadata = (("traceparent", CALL.traceparent),)
    with pytest.raises(asyncio.CancelledError), traces.of("/test.Service/late", metadata, Context()):
        raise asyncio.CancelledError
    (span,) = sink.spans
    assert (span.attributes["rpc.grpc.status_code"], span.error) == (code, error)


async def test_streams_health_and_calls_to_models_are_no_spans(mesh: Mesh) -> None:
    metadata = (("traceparent", CALL.traceparent),)
    start: Any = mesh.channel.unary_stream(f"/{SERVICE}/stream")
    stream = start(b"", metadata=metadata, timeout=TIMEOUT)
    assert [message async for message in stream] == [b"hello"]
    await mesh.begin("/weft.inference.v1.InferenceService/Infer", CALL)
    token = tracing.current.set(CALL)
    await check_health(mesh.channel, SERVICE, timeout=TIMEOUT)
    tracing.current.reset(token)
    await mesh.begin("answer", CALL)
    assert (await mesh.span()).name == f"{SERVICE}/answer"
    assert not mesh.sink.spans


async def test_callers_that_say_all_is_traced_get_so_many_a_second() -> None:
    mesh = await Mesh().open(per_second=2)
    try:
        for _ in range(20):
            await mesh.begin("answer", CALL)
        assert len(mesh.sink.spans) < 20
    finally:
        await mesh.close()


async def test_an_error_in_the_log_bears_the_ids(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    places: list[TraceContext | None] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            places.append(tracing.current.get())

    logger, handler = logging.getLogger("services.rpc.boundary"), Noting()
    logger.addHandler(handler)
    try:
        with pytest.raises(grpc.aio.AioRpcError):
            await mesh.begin("crash", CALL)
    finally:
        logger.removeHandler(handler)
    assert places == [(await mesh.span()).context]
