"""What a traced call tells of its way through the router: with servers and an auth that the test answers for."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.core import gen_ai
from services.core.catalogue import Catalogue, Cluster, Endpoint, HttpBackend, ModelBinding, SessionBackend
from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.core.globus import GlobusBackend, GlobusFunction, LaunchPolicy
from services.core.inference import Call, Head, Inference, Request
from services.core.principal import Permissions, Principal
from services.core.tracing import TraceContext, Tracer, current, parent_in
from services.router.audit import CallAudit
from services.router.call_trace import ADMIT, MOST_STEPS, WAIT, trace
from services.router.cold import ColdEndpoint, ColdEndpoints, StartState
from services.router.dispatcher import Dispatcher, DispatchSettings
from services.router.first import StatusRoutes
from services.router.gateway import Gateway
from services.router.limits.claims import Claim
from services.router.limits.limiter import Admission, Limiter
from services.router.permits import Permits
from services.router.policies import least_outstanding
from services.router.queues import Queues
from services.router.roster import Roster
from services.router.targets import HTTP, Server, Target
from services.runtime.audit import AuditLog
from tests.testing.bills import Books, limited
from tests.testing.clock import Clock
from tests.testing.spans import Spans
from tests.testing.streams import Answer, Answerer, Served

ENDPOINT = "clusters/one/endpoints/vllm"
COLD = "clusters/one/endpoints/cold"
CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","max_tokens":7,"temperature":0.5,"top_p":1,"messages":[{"role":"user","content":"a secret"}]}'
PARENT = TraceContext.of("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
ANSWER = (
    b'{"choices":[{"index":0,"message":{"content":"an answer"}}],"usage":{"prompt_tokens":5,"completion_tokens":3}}'
)
JSON = Head(200, (("content-type", "application/json"),))
USER = Principal("users/a", permissions=Permissions(allow_models=("*",)))


class Principals:
    """Knows the users `warm` and `limited` at once, and asks auth, which the test lets answer, for `asked`."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.place: TraceContext | None = None

    def peek(self, credential: str) -> Principal | None:
        if credential == "limited":
            return dataclasses.replace(limited("users/l", concurrent_calls=1), permissions=USER.permissions)
        return USER if credential == "warm" else None

    async def authenticate(self, credential: str | None) -> Principal:
        self.place = current.get()
        await self.answering.wait()
        if credential != "asked":
            raise ServiceError(Reason.CREDENTIAL_INVALID)
        return USER


class Asked(Limiter):
    """Says nothing until its store is asked."""

    def admit(self, claims: tuple[Claim, ...], *, principal: str, tokens: int) -> Admission | None:
        return None

    async def admit_later(self, claims: tuple[Claim, ...], *, principal: str, tokens: int) -> Admission:
        admitted = super().admit(claims, principal=principal, tokens=tokens)
        assert admitted is not None
        return admitted


class Mesh:
    """A gateway before servers of `m`."""

    def __init__(self, tracer: Tracer, servers: int = 1) -> None:
        self.principals = Principals()
        self.clock = Clock()
        self.roster = Roster(settle=0, clock=self.clock.time)
        launch = GlobusBackend(launch=LaunchPolicy(GlobusFunction("e")))
        self.roster.set_catalogue(
            Catalogue.of(
                [
                    Cluster("clusters/one"),
                    Endpoint(ENDPOINT, SessionBackend()),
                    Endpoint(COLD, launch, models=(ModelBinding("cold"),)),
                    Endpoint("clusters/one/endpoints/far", HttpBackend("https://u:pass@far.example/x?key=1")),
                ]
            )
        )
        self.answerers: list[Answerer] = []
        self.cold = ColdEndpoints()
        self.cold.changed = self.roster.state_changed
        self.dispatcher = Dispatcher(
            self.roster,
            least_outstanding,
            DispatchSettings(Bounds(first_byte=30), max_attempts=3, wait_for_worker=5, max_waiting=10),
            self.clock,
            lambda call, outcome: None,
            CallAudit(AuditLog(Path("/dev/null"))),
            self.cold,
        )
        permits = Permits(self.roster)
        status = StatusRoutes(self.roster, permits, self.cold, Queues(never))
        # The records' times stand beside those that calls note.
        self.books = Books(time.time)
        self.gateway = Gateway(
            self.principals, permits, self.dispatcher, status, self.books.accounting, max_calls=10, tracer=tracer
        )
        for number in range(servers):
            self.attach(f"i{number}")

    def attach(self, instance: str, endpoint: str = ENDPOINT, model: str = "m", **more: Any) -> Server:
        self.answerers.append(Answerer())
        server = Server(endpoint, instance, self.answerers[-1], {model: ""}, ready=True, **more)
        self.roster.add(server)
        return server

    async def call(self, request: Request, at: Inference | None = None) -> tuple[Answer, Call]:
        answer = Answer()
        call = (at or self.gateway).open(request, answer, 1 << 20)
        answer.opened = True
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return answer, call

    def served(self, server: int = 0) -> Served:
        """The last call at a server."""
        return self.answerers[server].calls[-1]

    def answer(self, server: int = 0, body: bytes = ANSWER, head: Head = JSON) -> None:
        """Has a server answer its last call."""
        receiver = self.served(server).receiver
        receiver.head(head)
        receiver.data(body)
        receiver.end()


async def never(cluster: str) -> Any:
    """Knows no queue."""
    raise ServiceError(Reason.LAUNCHER_UNAVAILABLE)


def request(key: str = "warm", body: bytes = BODY, parent: TraceContext | None = PARENT, **more: Any) -> Request:
    headers = [("authorization", f"Bearer {key}"), ("x-request-id", "r1"), ("accept", "x")]
    if parent is not None:
        headers.append(("traceparent", parent.traceparent))
    return Request(CHAT, tuple(headers), body, **more)


def traced_at(served: Served) -> TraceContext | None:
    """What a server is told of the trace."""
    return parent_in(served.request)


async def test_the_span_of_a_call_that_went_well():
    spans = Spans()
    mesh = Mesh(spans.tracer())
    await mesh.call(request())
    mesh.answer()
    of_call, attempt = spans.all
    assert (of_call.name, of_call.service, of_call.kind.name, of_call.error) == ("chat m", "router", "SERVER", "")
    assert (of_call.parent_id, of_call.context.trace_id) == (PARENT.span_id, PARENT.trace_id)
    told = dict(of_call.attributes)
    assert 0 <= told.pop(gen_ai.RESPONSE_TIME_TO_FIRST_CHUNK) < 60  # type: ignore[operator]
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "http.response.status_code": 200,
        "weft.attempts": 1,
        "weft.endpoint": ENDPOINT,
        "weft.outcome": "ok",
        "weft.principal": "users/a",
        "weft.request_id": "r1",
    }
    events = [event.name for event in of_call.events]
    assert events == ["authenticated", "authorised", "admitted", "planned", "gen_ai.first_token", "end"]
    assert [event.time_ns for event in of_call.events] == sorted(event.time_ns for event in of_call.events)
    assert spans.under(of_call) == [attempt]
    assert (attempt.name, attempt.kind.name, attempt.error) == (f"dispatch {ENDPOINT}", "CLIENT", "")
    assert attempt.attributes == {
        "weft.endpoint": ENDPOINT,
        "weft.instance": "i0",
        "weft.backend": "session",
        "weft.attempt": 1,
        "http.response.status_code": 200,
    }
    assert traced_at(mesh.served()) == attempt.context, "the worker works for the attempt"


async def test_nothing_is_told_of_a_call_that_is_not_sampled_and_went_well():
    spans = Spans()
    mesh = Mesh(spans.tracer(ratio=0.0))
    await mesh.call(request(parent=None))
    mesh.answer()
    assert spans.all == []
    seen = traced_at(mesh.served())
    assert seen is not None
    assert not seen.sampled, "the worker may keep what it does for a call that fails there"


async def test_a_call_that_is_not_sampled_takes_notes_only_from_when_it_leaves_the_warm_way():
    for leaves in (False, True):
        tracer = Spans().tracer(ratio=0.0)
        notes = trace(tracer, request(parent=None), inside=False)
        place = notes.attempt(Target(Server(ENDPOINT, "i", Answerer()), "one", "", "m"), 2)
        assert (notes.noting, notes.steps) == (False, [])
        if leaves:
            notes.done("worker_lost")
            (step,) = notes.steps
            assert (step.context, step.candidates, step.error) == (place, 2, "worker_lost")
            assert notes.started <= step.started <= step.ended
    assert notes.retried


async def test_a_call_that_is_not_sampled_and_breaks_off_tells_of_its_only_attempt():
    spans = Spans()
    mesh = Mesh(spans.tracer(ratio=0.0), servers=3)
    await mesh.call(request(parent=None))
    (served,) = (one.calls[-1] for one in mesh.answerers if one.calls)
    served.receiver.head(JSON)
    served.receiver.data(b"{")
    served.receiver.fail(ServiceError(Reason.WORKER_LOST))
    of_call, attempt = spans.all
    assert traced_at(served) == attempt.context
    assert of_call.start_ns <= attempt.start_ns <= attempt.end_ns <= of_call.end_ns
    planned = [event.attributes["weft.candidates"] for event in of_call.events if event.name == "planned"]
    assert planned == [3]


async def test_without_a_tracer_a_callers_own_headers_travel():
    mesh = Mesh(None)  # type: ignore[arg-type]
    asked = request()
    await mesh.call(msgspec.structs.replace(asked, headers=(*asked.headers, ("tracestate", "a=1"))))
    assert traced_at(mesh.served()) == msgspec.structs.replace(PARENT, state="a=1")
    mesh.answer()


async def test_a_tracestate_travels_and_cannot_add_headers():
    mesh = Mesh(Spans().tracer())
    for state, seen in (("a=1", "a=1"), ("a=1\r\nx-evil: 1", "")):
        asked = request()
        await mesh.call(msgspec.structs.replace(asked, headers=(*asked.headers, ("tracestate", state))))
        place = traced_at(mesh.served())
        assert place is not None
        assert (place.trace_id, place.state) == (PARENT.trace_id, seen)
        mesh.answer()


async def test_a_retried_call_tells_of_both_attempts_though_it_was_not_sampled():
    spans = Spans()
    mesh = Mesh(spans.tracer(ratio=0.0), servers=2)
    await mesh.call(request(parent=None))
    first, second = (0, 1) if mesh.answerers[0].calls else (1, 0)
    mesh.served(first).receiver.head(Head(503, ()))
    mesh.answer(second)
    of_call = spans.named("chat m")
    failed, well = spans.under(of_call)
    assert (failed.error, failed.attributes["error.type"]) == ("upstream_broken", "upstream_broken")
    assert [one.attributes["http.response.status_code"] for one in (failed, well)] == [503, 200]
    assert [one.attributes["weft.instance"] for one in (failed, well)] == [f"i{first}", f"i{second}"]
    assert [one.attributes["weft.attempt"] for one in (failed, well)] == [1, 2]
    assert (well.error, of_call.error, of_call.attributes["weft.attempts"]) == ("", "", 2)
    assert [traced_at(mesh.served(one)) for one in (first, second)] == [failed.context, well.context]
    planned = [event.attributes["weft.candidates"] for event in of_call.events if event.name == "planned"]
    assert planned == [2, 1]


async def test_a_cancelled_call_is_no_error():
    spans = Spans()
    mesh = Mesh(spans.tracer())
    _, call = await mesh.call(request())
    call.cancel()
    of_call, attempt = spans.all
    assert (of_call.attributes["weft.outcome"], of_call.error, attempt.error) == ("cancelled", "", "")
    assert "error.type" not in of_call.attributes
    call.cancel()
    assert len(spans.all) == 2, "a call ends once"


async def test_an_answer_that_breaks_off_is_an_error_at_its_server():
    spans = Spans()
    mesh = Mesh(spans.tracer(ratio=0.0))
    await mesh.call(request(parent=None))
    mesh.served().receiver.head(JSON)
    mesh.served().receiver.data(b"{")
    mesh.served().receiver.fail(ServiceError(Reason.WORKER_LOST))
    of_call, attempt = spans.all
    assert (of_call.error, attempt.error) == ("worker_lost", "worker_lost")
    assert of_call.attributes["weft.outcome"] == of_call.attributes["error.type"] == "worker_lost"


async def test_a_servers_own_failure_is_told_by_its_status():
    spans = Spans()
    mesh = Mesh(spans.tracer(ratio=0.0))
    await mesh.call(request(parent=None))
    mesh.answer(head=Head(500, JSON.headers), body=b"{}")
    of_call, attempt = spans.all
    assert (of_call.attributes["weft.outcome"], of_call.error, attempt.error) == ("ok", "500", "500")
    await mesh.call(request(parent=None))
    mesh.answer(head=Head(400, JSON.headers), body=b"{}")
    assert len(spans.all) == 2, "what a server says of a caller's mistake is an answer"


@pytest.mark.parametrize(
    ("reason", "status", "changes"),
    [
        (Reason.CREDENTIAL_INVALID, 401, {"key": "bad"}),
        (Reason.MODEL_NOT_FOUND, 404, {"body": b'{"model":"none"}'}),
        (Reason.BODY_NOT_JSON, 400, {"body": b"{"}),
        (Reason.CALLS_EXHAUSTED, 429, {"key": "limited"}),
    ],
)
async def test_a_refused_call_tells_why_and_is_no_error_of_the_routers(
    reason: Reason, status: int, changes: dict[str, Any]
) -> None:
    spans = Spans()
    mesh = Mesh(spans.tracer(ratio=0.0))
    mesh.principals.answering.set()
    await mesh.call(request("limited", parent=None))
    answer, _ = await mesh.call(request(**changes, parent=None))
    await answer.over.wait()
    span = spans.named("chat")
    assert (span.error, span.attributes["error.type"]) == ("", reason.name.lower())
    assert (span.attributes["weft.outcome"], span.attributes["http.response.status_code"]) == (
        reason.name.lower(),
        status,
    )


async def test_a_caller_who_is_refused_again_and_again_hides_no_failure():
    spans = Spans()
    mesh = Mesh(spans.tracer(ratio=0.0, errors_per_second=1.0))
    for _ in range(10):
        await mesh.call(request(body=b"{", parent=None))
    assert len(spans.all) <= 2
    spans.all.clear()
    await mesh.call(request(parent=None))
    mesh.served().receiver.fail(ServiceError(Reason.INTERNAL))
    assert spans.named("chat m").error == "internal"


async def test_a_router_that_drains_tells_of_what_it_refuses():
    spans = Spans()
    mesh = Mesh(spans.tracer(ratio=0.0))
    await mesh.gateway.drain(1.0)
    await mesh.call(request(parent=None))
    (span,) = spans.all
    assert (span.name, span.error) == ("chat", "shutting_down")


async def test_who_auth_is_asked_about_is_a_span_under_which_the_asking_stands():
    spans = Spans()
    mesh = Mesh(spans.tracer())
    await mesh.call(request(key="asked"))
    mesh.principals.answering.set()
    await mesh.answerers[0].arrived.wait()
    mesh.answer()
    authenticate, attempt = spans.under(spans.named("chat m"))
    assert (authenticate.name, authenticate.kind.name) == ("authenticate", "INTERNAL")
    assert mesh.principals.place == authenticate.context
    assert authenticate.end_ns <= attempt.start_ns


async def test_a_bad_key_has_no_principal_and_its_authentication_failed():
    spans = Spans()
    mesh = Mesh(spans.tracer())
    mesh.principals.answering.set()
    answer, _ = await mesh.call(request(key="no-hex-key"))
    await answer.over.wait()
    of_call, authenticate = spans.all
    assert (of_call.name, authenticate.error) == ("chat", "credential_invalid")
    assert "weft.principal" not in of_call.attributes
    assert "no-hex-key" not in repr(spans.all)


async def test_a_call_for_which_the_limits_store_is_asked_tells_so():
    spans = Spans()
    mesh = Mesh(spans.tracer())
    object.__setattr__(mesh.books.accounting, "limiter", Asked(clock=mesh.clock.time))
    await mesh.call(request("limited"))
    await mesh.answerers[0].arrived.wait()
    answer, _ = await mesh.call(request("limited"))
    await answer.over.wait()
    of_refused, refused = spans.all
    assert (refused.name, refused.error, of_refused.error) == ("admit", "calls_exhausted", "")
    assert "admitted" not in [event.name for event in of_refused.events]
    spans.all.clear()
    mesh.answer()
    of_call = spans.named("chat m")
    admit, attempt = spans.under(of_call)
    assert (admit.name, admit.error, attempt.kind.name) == ("admit", "", "CLIENT")
    assert [event.name for event in of_call.events][:3] == ["authenticated", "authorised", "admitted"]


async def test_a_call_that_waits_for_room_tells_so():
    spans = Spans()
    mesh = Mesh(spans.tracer(), servers=0)
    mesh.attach("i", max_calls=1)
    await mesh.call(request(parent=None))
    await mesh.call(request())
    mesh.answer()
    mesh.answer()
    of_call = spans.named("chat m")
    wait, attempt = spans.under(of_call)
    assert (wait.name, wait.attributes, wait.error) == ("wait", {"weft.wait.reason": "at capacity"}, "")
    assert wait.end_ns <= attempt.start_ns
    planned = [event.attributes["weft.candidates"] for event in of_call.events if event.name == "planned"]
    assert planned == [0, 1]


async def test_a_call_that_waits_for_a_workers_start_tells_how_far_it_is():
    spans = Spans()
    mesh = Mesh(spans.tracer(), servers=0)
    mesh.cold.learn({COLD: ColdEndpoint(StartState.PENDING)})
    answer, _ = await mesh.call(request(body=b'{"model":"cold"}'))
    for state in (StartState.QUEUED, StartState.STARTING):
        mesh.cold.learn({COLD: ColdEndpoint(state)})
    mesh.cold.learn({COLD: ColdEndpoint(StartState.FAILED, "no node", retry_after=1000, failed=True)})
    assert answer.reason is Reason.NO_WORKER
    wait = spans.named("wait")
    assert (wait.attributes["weft.wait.reason"], wait.error) == ("starting", "no_worker")
    assert [event.attributes["weft.state"] for event in wait.events] == ["queued", "starting"]
    assert spans.named("chat cold").attributes["weft.attempts"] == 0


async def test_a_call_whose_model_nobody_serves_tells_so():
    spans = Spans()
    mesh = Mesh(spans.tracer(ratio=0.0))
    mesh.roster.remove(next(iter(mesh.roster.servers)))
    answer, _ = await mesh.call(request(parent=None))
    mesh.clock.advance(6)
    assert answer.reason is Reason.NO_WORKER
    assert spans.named("wait").attributes["weft.wait.reason"] == "no worker"
    assert spans.named("chat m").error == "no_worker"


def test_a_call_that_is_turned_back_for_ever_has_a_bounded_trace():
    notes = trace(Spans().tracer(), request(), inside=False)
    for _ in range(MOST_STEPS):
        notes.begin(ADMIT)
        notes.begin(WAIT)
        for _ in range(100):
            notes.state("queued")
    notes.attempt(Target(Server(ENDPOINT, "i", Answerer()), "one", "", "m"), 1)
    assert len(notes.steps) == MOST_STEPS + 1
    assert max(len(step.states) for step in notes.steps) < 20


async def test_facades_decide_what_is_sampled_and_callers_within_the_allowance():
    spans = Spans()
    mesh = Mesh(spans.tracer(forced_per_second=0.0, ratio=0.0))
    await mesh.call(request())
    mesh.answer()
    assert spans.all == []
    await mesh.call(request(), mesh.gateway.behind_facades)
    mesh.answer()
    assert spans.named("chat m").parent_id == PARENT.span_id


async def test_an_endpoint_by_url_is_told_without_what_its_url_may_hide():
    spans = Spans()
    mesh = Mesh(spans.tracer(), servers=0)
    mesh.attach("https://u:pass@far.example/x?key=1", "clusters/one/endpoints/far", carrier=HTTP)
    await mesh.call(request())
    mesh.answer()
    attempt = spans.named("dispatch")
    assert (attempt.attributes["weft.backend"], attempt.attributes["weft.instance"]) == ("http", "far.example")


async def test_nothing_of_what_is_said_is_told_unless_it_is_turned_on():
    for content in (False, True):
        spans = Spans()
        mesh = Mesh(spans.tracer(content=content))
        await mesh.call(request())
        mesh.answer()
        told = repr(spans.all)
        assert ("a secret" in told, "an answer" in told) == (content, content)
        assert "warm" not in told
    attributes = spans.named("chat m").attributes
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "a secret"}]}
    ]
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "an answer"}]}
    ]


@pytest.mark.parametrize("inside", [False, True])
async def test_where_content_is_told_what_breaks_off_unsampled_tells_its_answer(inside: bool) -> None:
    spans = Spans()
    mesh = Mesh(spans.tracer(content=True, ratio=0.0))
    parent = PARENT.decided(sampled=False) if inside else None
    at = mesh.gateway.behind_facades if inside else None
    await mesh.call(request(parent=parent), at)
    mesh.answer()
    assert spans.all == []
    await mesh.call(request(parent=parent), at)
    mesh.served().receiver.head(JSON)
    mesh.served().receiver.data(ANSWER)
    mesh.served().receiver.fail(ServiceError(Reason.WORKER_LOST))
    assert "an answer" in str(spans.named("chat m").attributes["gen_ai.output.messages"])


async def test_what_is_asked_for_by_get_is_not_traced():
    spans = Spans()
    mesh = Mesh(spans.tracer())
    models = Request("/v1/models", request().headers, b"", "GET")
    answer, _ = await mesh.call(models)
    await answer.over.wait()
    assert (answer.heads[0].status, spans.all) == (200, [])


async def test_a_failed_attempt_in_the_log_leads_to_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    mesh = Mesh(Spans().tracer(), servers=2)
    with caplog.at_level(logging.INFO, "services.router.dispatch"):
        await mesh.call(request())
        first = 0 if mesh.answerers[0].calls else 1
        mesh.served(first).receiver.fail(ServiceError(Reason.WORKER_LOST))
    (said,) = caplog.records
    assert said.__dict__["trace_id"] == PARENT.trace_id
    mesh.answer(1 - first)


async def test_a_sink_that_fails_takes_no_call_with_it(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Spans):
        def record(self, span: Any) -> None:
            raise RuntimeError("broken")

    mesh = Mesh(Broken().tracer())
    answer, _ = await mesh.call(request())
    mesh.answer()
    assert answer.ends == [None]
    assert "the spans of a call could not be made" in caplog.text
