"""What a facade tells of a request's way: its span, and what the router hears of the trace."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Head, Inference, Receiver, Request
from services.core.tracing import TraceContext, Tracer, parent_in
from services.facade.app import App, AppSettings
from services.facade.guard import CONNECTION
from tests.testing.spans import Spans
from tests.testing.streams import Answerer, Served

CHAT = "/v1/chat/completions"
SETTINGS = AppSettings(max_body=1000, max_arriving=3000, call_window=256 * 1024, window_budget=1024 * 1024)
PARENT = TraceContext.of("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
JSON = Head(200, (("content-type", "application/json"),))
EVENTS = Head(200, (("content-type", "text/event-stream"),))
LOST = ServiceError(Reason.WORKER_LOST)


class Client:
    """A connection, and what was sent to it."""

    def __init__(self) -> None:
        self.on_leave: Callable[[], None] | None = None
        self.messages: list[dict[str, Any]] = []

    def send_now(self, body: bytes) -> bool:
        """See `facade.guard.Connection`."""
        return False

    def abort(self) -> None:
        """See `facade.guard.Connection`."""

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's `send`."""
        self.messages.append(message)


class Asked:
    """A request that is under way."""

    def __init__(
        self,
        tracer: Tracer | None,
        path: str = CHAT,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        method: str = "POST",
        *,
        parent: TraceContext | None = PARENT,
        keyed: bool = True,
        request_id: bytes = b"r1",
        inference: Inference | None = None,
        leaves: bool = False,
    ) -> None:
        self.router = Answerer()
        self.client = Client()
        app = App(inference or self.router, self._ready, SETTINGS, tracer)
        sent = [*([(b"x-request-id", request_id)] if request_id else []), *headers]
        if keyed:
            sent.append((b"authorization", b"Bearer key"))
        if parent is not None:
            sent.append((b"traceparent", parent.traceparent.encode()))
        scope = {"method": method, "path": path, "scheme": "http", "headers": sent}
        scope["extensions"] = {CONNECTION: self.client}
        self._left = leaves
        self._task = asyncio.create_task(app(scope, self._receive, self.client.send))

    async def _ready(self) -> bool:
        return True

    async def _receive(self) -> dict[str, Any]:
        if self._left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def served(self) -> Served:
        """What the router got."""
        await self.router.arrived.wait()
        return self.router.calls[0]

    async def over(self) -> None:
        """Its end."""
        await self._task


async def test_the_span_of_a_request_that_went_well() -> None:
    spans = Spans()
    asked = Asked(spans.tracer(), headers=((b"tracestate", b"a=1"),))
    served = await asked.served()
    served.receiver.head(JSON)
    served.data(b"{}")
    served.receiver.end()
    await asked.over()
    (span,) = spans.all
    assert (span.name, span.service, span.kind.name, span.error) == (f"POST {CHAT}", "facade", "SERVER", "")
    assert (span.context.trace_id, span.parent_id) == (PARENT.trace_id, PARENT.span_id)
    assert span.attributes == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "weft.request_id": "r1",
    }
    (first_byte,) = span.events
    assert first_byte.name == "first byte"
    assert span.start_ns <= first_byte.time_ns <= span.end_ns
    assert parent_in(served.request) == span.context, "the router works for the facade"
    assert span.context.state == "a=1"


async def test_two_parents_are_none() -> None:
    spans = Spans()
    asked = Asked(spans.tracer(ratio=1.0), headers=((b"traceparent", PARENT.traceparent.encode()),))
    served = await asked.served()
    served.receiver.fail(LOST)
    await asked.over()
    (span,) = spans.all
    assert span.parent_id == ""
    assert span.context.trace_id != PARENT.trace_id
    assert parent_in(served.request) == span.context


async def test_a_trace_that_begins_here_has_the_id_of_its_request() -> None:
    spans = Spans()
    asked = Asked(spans.tracer(ratio=1.0), parent=None, request_id=b"")
    served = await asked.served()
    served.receiver.fail(LOST)
    await asked.over()
    (span,) = spans.all
    assert span.context.trace_id == span.attributes["weft.request_id"] == served.request.header("x-request-id")


async def test_a_request_id_of_the_clients_own_is_no_traces() -> None:
    spans = Spans()
    asked = Asked(spans.tracer(ratio=1.0), parent=None)
    served = await asked.served()
    served.receiver.fail(LOST)
    await asked.over()
    assert len(spans.all[0].context.trace_id) == 32


async def test_without_a_tracer_what_the_client_sends_travels() -> None:
    asked = Asked(None, headers=((b"tracestate", b"a=1"),))
    served = await asked.served()
    assert (served.request.header("traceparent"), served.request.header("tracestate")) == (PARENT.traceparent, "a=1")
    served.receiver.fail(LOST)
    await asked.over()


async def test_a_client_that_leaves_is_no_error() -> None:
    spans = Spans()
    asked = Asked(spans.tracer())
    served = await asked.served()
    assert asked.client.on_leave is not None
    asked.client.on_leave()
    assert served.cancelled
    served.cancelled = False  # the fake refuses a second cancel, which real calls allow
    await asked.over()
    (span,) = spans.all
    assert [event.name for event in span.events] == ["left"]
    assert (span.attributes["http.response.status_code"], span.attributes["weft.outcome"]) == (499, "cancelled")
    assert (span.error, "error.type" in span.attributes) == ("", False)


async def test_a_client_that_leaves_before_its_body_is_there_is_no_error() -> None:
    spans = Spans()
    await Asked(spans.tracer(), leaves=True).over()
    (span,) = spans.all
    assert (span.error, [event.name for event in span.events]) == ("", ["left"])


@pytest.mark.parametrize(
    ("error", "said"), [(LOST, "worker_lost"), (ServiceError(Reason.MODEL_FORBIDDEN), "model_forbidden")]
)
async def test_an_error_is_told_by_its_reason(error: ServiceError, said: str) -> None:
    spans = Spans()
    asked = Asked(spans.tracer(ratio=0.0), parent=None)
    (await asked.served()).receiver.fail(error)
    await asked.over()
    (span,) = spans.all
    assert span.attributes["http.response.status_code"] == error.kind.http
    assert (span.attributes["error.type"], span.error) == (said, said if error.kind.http >= 500 else "")


async def test_an_answer_that_breaks_off_is_an_error_whatever_its_status() -> None:
    spans = Spans()
    asked = Asked(spans.tracer(ratio=0.0), parent=None)
    served = await asked.served()
    served.receiver.head(EVENTS)
    served.data(b"data: {}\n\n")
    served.receiver.fail(LOST)
    await asked.over()
    (span,) = spans.all
    assert (span.error, span.attributes["http.response.status_code"]) == ("worker_lost", 200)
    assert [event.name for event in span.events] == ["first byte"]


async def test_a_servers_own_failure_is_told_by_its_status() -> None:
    for status, error in ((500, "500"), (400, "")):
        spans = Spans()
        asked = Asked(spans.tracer())
        served = await asked.served()
        served.receiver.head(Head(status, JSON.headers))
        served.data(b"{}")
        served.receiver.end()
        await asked.over()
        assert spans.named("POST").error == error


async def test_who_has_no_key_is_told_of_too() -> None:
    spans = Spans()
    await Asked(spans.tracer(ratio=0.0), keyed=False, parent=None).over()
    (span,) = spans.all
    assert (span.attributes["error.type"], span.error) == ("credential_missing", "")


async def test_paths_that_clients_make_up_are_one_route() -> None:
    spans = Spans()
    tracer = spans.tracer()
    for path in ("/nothing", "/v1/made/up", "/resource_server/one/vllm/v1/chat/completions"):
        asked = Asked(tracer, path)
        if path != "/nothing":
            (await asked.served()).receiver.fail(LOST)
        await asked.over()
    assert spans.names == ["POST other", "POST other", f"POST {CHAT}"]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/version", "/resource_server/status"])
async def test_what_is_no_call_to_a_model_is_not_traced(path: str) -> None:
    spans = Spans()
    asked = Asked(spans.tracer(), path, method="GET")
    if path.startswith(("/v1", "/resource")):
        served = await asked.served()
        assert served.request.header("traceparent") == PARENT.traceparent
        served.receiver.fail(LOST)
    await asked.over()
    assert spans.all == []


async def test_an_unexpected_error_in_the_log_leads_to_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
            raise RuntimeError("broken")

    spans = Spans()
    with caplog.at_level(logging.ERROR):
        await Asked(spans.tracer(), inference=Broken()).over()
    (said,) = caplog.records
    (span,) = spans.all
    assert (said.__dict__["trace_id"], said.__dict__["span_id"]) == (span.context.trace_id, span.context.span_id)
    assert span.error == "internal"


async def test_notes_are_not_held_by_what_went_wrong() -> None:
    """Exceptions hold the frames that they went through, the request's body in them."""
    spans = Spans()
    asked = Asked(spans.tracer(), keyed=False)
    client = weakref.ref(asked.client)
    await asked.over()
    del asked
    gc.collect()
    assert client() is None
