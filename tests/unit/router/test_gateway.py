"""The router as an `Inference`: who is refused with what, in which order, and what reaches a server."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from weft.launcher.v1 import launcher_pb2

from services.core.answers import collect
from services.core.catalogue import Catalogue, Cluster, Endpoint, SessionBackend
from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.core.globus import GlobusFunction
from services.core.inference import Call, Request
from services.core.principal import Permissions, Principal
from services.router.audit import CallAudit
from services.router.dispatcher import Dispatcher, DispatchSettings
from services.router.first import StatusRoutes
from services.router.gateway import Gateway
from services.router.permits import Permits
from services.router.policies import least_outstanding
from services.router.roster import Roster
from services.router.targets import Server
from services.runtime.audit import AuditLog
from tests.testing.bills import Books
from tests.testing.clock import Clock
from tests.testing.streams import Answer, Answerer

ENDPOINT = "clusters/one/endpoints/vllm"
ALL = Principal("users/all", permissions=Permissions(allow_models=("*",)))
SOME = Principal("users/some", permissions=Permissions(allow_models=("a",)))
CHAT = "/v1/chat/completions"


class Principals:
    """Knows `all` at once and `some` when auth is asked, and fails in an unforeseen way at `broken`."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.answering = asyncio.Event()
        self.answering.set()

    def peek(self, credential: str) -> Principal | None:
        return ALL if credential == "all" else None

    async def authenticate(self, credential: str | None) -> Principal:
        self.asked.append(credential)
        await self.answering.wait()
        if credential == "some":
            return SOME
        if credential == "broken":
            raise KeyError("unforeseen")
        raise ServiceError(Reason.CREDENTIAL_INVALID if credential else Reason.CREDENTIAL_MISSING)


class NoQueues:
    """Knows no cluster's queue, and says so when the test lets it."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.left = 0

    async def of(self, cluster: str) -> launcher_pb2.GetQueueResponse:
        try:
            await self.answering.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        raise ServiceError(Reason.LAUNCHER_UNAVAILABLE)


class Setting:
    """A gateway before one server that serves `a` and `b`."""

    def __init__(self, max_calls: int = 10) -> None:
        self.principals = Principals()
        self.clock = Clock()
        self.roster = Roster(settle=0)
        self.roster.set_catalogue(Catalogue.of([Cluster("clusters/one"), Endpoint(ENDPOINT, SessionBackend())]))
        self.answerer = Answerer()
        self.server = Server(ENDPOINT, "i", self.answerer, {"a": '{"id":"a","root":"/m/a"}', "b": ""}, ready=True)
        self.roster.add(self.server)
        settings = DispatchSettings(Bounds(), max_attempts=3, wait_for_worker=5, max_waiting=10)
        self.dispatcher = Dispatcher(
            self.roster,
            least_outstanding,
            settings,
            self.clock,
            lambda call, outcome: None,
            CallAudit(AuditLog(Path("/dev/null"))),
        )
        self.queues = NoQueues()
        self.books = Books(self.clock.time)
        self.permits = Permits(self.roster)
        self.status = StatusRoutes(self.roster, self.permits, self.dispatcher.cold, self.queues)
        self.gateway = Gateway(
            self.principals, self.permits, self.dispatcher, self.status, self.books.accounting, max_calls=max_calls
        )

    def open(self, request: Request, credit: int = 1 << 20) -> tuple[Answer, Call]:
        answer = Answer()
        call = self.gateway.open(request, answer, credit)
        answer.opened = True
        return answer, call

    async def refusal(self, request: Request) -> Reason:
        """Why a request is refused."""
        answer, _ = self.open(request)
        await answer.over.wait()
        assert answer.reason is not None
        return answer.reason


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    made = Setting()
    yield made
    assert (made.gateway.open_calls, made.server.open_calls, made.roster.waiting) == (0, 0, 0)


def request(
    body: bytes = b'{"model":"a"}', key: str = "Bearer all", operation: str = CHAT, method: str = "POST", **more: str
) -> Request:
    headers = (("authorization", key), ("content-type", "application/json")) if key else ()
    return msgspec.structs.replace(Request(operation, headers, body, method), **more)


WRONG: list[tuple[Reason, dict[str, object]]] = [
    (Reason.CREDENTIAL_MISSING, {"key": ""}),
    (Reason.OPERATION_NOT_FOUND, {"operation": "/metrics"}),
    (Reason.BODY_NOT_JSON, {"body": b"{"}),
    (Reason.MODEL_NOT_FOUND, {"body": b'{"model":"x"}'}),
    (Reason.MODEL_FORBIDDEN, {"body": b'{"model":"b"}'}),
]


@pytest.mark.parametrize("first", range(len(WRONG)))
async def test_the_order_of_refusals(setting, first):
    """Of several things wrong, the first in the order 401, 404 or 405, 400, 404, 403 is told."""
    fields: dict[str, object] = {"key": "Bearer some"}
    for _, wrong in reversed(WRONG[first:]):
        fields |= wrong
    assert await setting.refusal(request(**fields)) is WRONG[first][0]
    assert setting.answerer.calls == []


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"key": "Basic YTpi"}, Reason.CREDENTIAL_MISSING),
        ({"key": "Bearer "}, Reason.CREDENTIAL_MISSING),
        ({"key": "Bearer wrong"}, Reason.CREDENTIAL_INVALID),
        ({"key": "Bearer broken"}, Reason.INTERNAL),
        ({"method": "GET"}, Reason.METHOD_NOT_ALLOWED),
        ({"operation": "/v1/models", "method": "POST"}, Reason.METHOD_NOT_ALLOWED),
        ({"operation": "/v1/models/a", "method": "DELETE"}, Reason.METHOD_NOT_ALLOWED),
        ({"operation": "/v1/modelsa", "method": "GET"}, Reason.METHOD_NOT_ALLOWED),
        ({"operation": "/v1/models/x", "method": "GET"}, Reason.MODEL_NOT_FOUND),
        ({"operation": "/v1/load_lora_adapter"}, Reason.OPERATION_NOT_FOUND),
        ({"operation": "/v1/a/../../metrics"}, Reason.OPERATION_NOT_FOUND),
        ({"operation": "/v1/a b"}, Reason.OPERATION_NOT_FOUND),
        ({"operation": "/v1/chat/completions?x=1"}, Reason.OPERATION_NOT_FOUND),
        ({"operation": "/v1/x HTTP/1.1\r\nhost: y"}, Reason.OPERATION_NOT_FOUND),
        ({"operation": "/v1/chat/completions\n"}, Reason.OPERATION_NOT_FOUND),
        ({"operation": ""}, Reason.OPERATION_NOT_FOUND),
        ({"body": b"[]"}, Reason.BODY_NOT_OBJECT),
        ({"body": b'{"model":"a","model":"b"}'}, Reason.DUPLICATE_KEY),
        ({"body": b'{"model":"a","\\u006dodel":"b"}'}, Reason.DUPLICATE_KEY),
        ({"body": b'{"model":"\\ud800"}'}, Reason.FIELD_INVALID),
        ({"body": b"{}"}, Reason.MODEL_REQUIRED),
        ({"cluster": "two"}, Reason.MODEL_NOT_FOUND),
    ],
)
async def test_refusals(setting, wrong, reason):
    answer, _ = setting.open(request(**wrong))
    for _ in range(5):  # until a call that is authorised waits
        await asyncio.sleep(0)
    setting.clock.advance(5)
    await answer.over.wait()
    assert answer.reason is reason
    assert setting.answerer.calls == []


async def test_a_header_that_could_write_others_is_refused(setting):
    bad = request()
    bad = msgspec.structs.replace(bad, headers=(*bad.headers, ("x-request-id", "a\r\nauthorization: b")))
    assert await setting.refusal(bad) is Reason.HEADER_INVALID


async def test_a_known_caller_waits_for_nobody(setting):
    answer, _ = setting.open(request())
    await asyncio.sleep(0)
    (served,) = setting.answerer.calls
    assert setting.principals.asked == []
    served.head()
    served.data(b"x")
    served.receiver.end()
    assert (bytes(answer.body), answer.ends) == (b"x", [None])


async def test_auth_is_asked_about_others_and_credit_that_comes_meanwhile_counts(setting):
    setting.principals.answering.clear()
    answer, call = setting.open(request(key="bearer some"), credit=10)
    call.grant(5)
    await asyncio.sleep(0)
    assert (setting.principals.asked, setting.answerer.calls, answer.ends) == (["some"], [], [])
    setting.principals.answering.set()
    await setting.answerer.arrived.wait()
    served = setting.answerer.calls[0]
    assert served.credit == 15
    call.grant(1)
    assert served.credit == 16
    call.cancel()
    answer.left = True
    assert served.cancelled


async def test_leaving_while_auth_is_asked(setting):
    setting.principals.answering.clear()
    answer, call = setting.open(request(key="Bearer some"))
    await asyncio.sleep(0)
    call.cancel()
    answer.left = True
    setting.principals.answering.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert setting.answerer.calls == []


async def test_leaving_at_once(setting):
    answer, call = setting.open(request())
    call.cancel()
    call.cancel()
    answer.left = True
    for _ in range(5):
        await asyncio.sleep(0)
    assert setting.answerer.calls == []


async def test_no_credential_of_the_client_reaches_a_server(setting):
    sent = request()
    secrets = (("cookie", "s"), ("x-api-key", "s"), ("proxy-authorization", "s"), ("x-forwarded-for", "1.2.3.4"))
    known = (("x-request-id", "id"), ("traceparent", "00-1-2-3"))
    answer, call = setting.open(msgspec.structs.replace(sent, headers=(*sent.headers, *secrets, *known)))
    await asyncio.sleep(0)
    assert setting.answerer.calls[0].request.headers == (("content-type", "application/json"), *known)
    call.cancel()
    answer.left = True


async def test_a_request_without_a_model_means_the_callers_only_one(setting):
    setting.open(request(b'{"x":1}', key="Bearer some"))
    await setting.answerer.arrived.wait()
    served = setting.answerer.calls[0]
    assert served.request.body == b'{"x":1}', "vLLM knows as well"
    served.head()
    served.receiver.end()


async def test_the_list_of_models_has_what_the_caller_may_use(setting):
    for key, ids in (("Bearer all", ["a", "b"]), ("Bearer some", ["a"])):
        head, body = await collect(setting.gateway, request(b"", key, "/v1/models", "GET"))
        listing = json.loads(body)
        assert (head.status, listing["object"], [card["id"] for card in listing["data"]]) == (200, "list", ids)
        assert head.header("content-length") == str(len(body))
        assert listing["data"][0] == {"id": "a", "root": "/m/a"}, "vLLM's own entry, as it is"
    _, body = await collect(setting.gateway, request(b"", "Bearer all", "/v1/models/b", "GET"))
    assert json.loads(body)["id"] == "b"
    assert await setting.refusal(request(b"", "Bearer some", "/v1/models/b", "GET")) is Reason.MODEL_NOT_FOUND


async def test_the_list_of_models_comes_within_the_credit(setting):
    answer, call = setting.open(request(b"", operation="/v1/models", method="GET"), credit=5)
    await asyncio.sleep(0)
    assert (len(answer.body), answer.ends) == (5, [])
    call.grant(1000)
    assert json.loads(answer.body)["object"] == "list"
    assert answer.ends == [None]


async def test_a_model_whose_server_is_not_ready_is_not_listed(setting):
    setting.server.ready = False
    _, body = await collect(setting.gateway, request(b"", operation="/v1/models", method="GET"))
    assert json.loads(body)["data"] == []


async def test_the_router_takes_so_many_calls_and_no_more():
    setting = Setting(max_calls=2)
    opened = [setting.open(request()) for _ in range(2)]
    assert await setting.refusal(request()) is Reason.OVERLOADED
    answer, call = opened[0]
    call.cancel()
    answer.left = True
    setting.open(request())
    await asyncio.sleep(0)
    assert [served.cancelled for served in setting.answerer.calls] == [True, False, False]
    assert setting.gateway.open_calls == 2


async def test_without_a_catalogue_nothing_is_said_to_be_unknown():
    setting = Setting()
    dispatcher = dataclasses.replace(setting.dispatcher, roster=Roster(settle=0))
    gateway = Gateway(
        setting.principals, setting.permits, dispatcher, setting.status, setting.books.accounting, max_calls=1
    )
    assert not await gateway.ready()
    with pytest.raises(ServiceError) as caught:
        await collect(gateway, request())
    assert caught.value.reason is Reason.REGISTRY_UNAVAILABLE


async def test_draining_lets_open_calls_finish_and_takes_no_more():
    setting = Setting()
    answer, _ = setting.open(request())
    await asyncio.sleep(0)
    draining = asyncio.create_task(setting.gateway.drain(grace=60))
    await asyncio.sleep(0)
    assert not await setting.gateway.ready()
    assert await setting.refusal(request()) is Reason.SHUTTING_DOWN
    assert not draining.done()
    setting.answerer.calls[0].head()
    setting.answerer.calls[0].receiver.end()
    await draining
    assert answer.ends == [None]


async def test_closing_ends_the_calls_that_are_left():
    setting = Setting()
    setting.server.max_calls = 1
    answering, _ = setting.open(request())
    await asyncio.sleep(0)
    waiting, _ = setting.open(request())
    setting.principals.answering.clear()
    asking, _ = setting.open(request(key="Bearer some"))
    await asyncio.sleep(0)
    await setting.gateway.drain(grace=0)
    await setting.gateway.close()
    ends = [answer.ends[0] for answer in (answering, waiting, asking)]
    assert [error and error.reason for error in ends] == [Reason.SHUTTING_DOWN] * 3
    assert [error and error.retry_after for error in ends] == [None, 1.0, 1.0], "what no server has may come again"
    assert [served.cancelled for served in setting.answerer.calls] == [True], "none has the place of another"
    assert setting.gateway.open_calls == 0


def status(operation: str, credential: str = "all", method: str = "GET") -> Request:
    headers = (("authorization", f"Bearer {credential}"),) if credential else ()
    return Request(f"/resource_server/{operation}", headers, b"", method=method, cluster="one")


async def test_status_routes_are_answered_here(setting):
    head, body = await collect(setting.gateway, status("whoami"))
    assert (head.status, head.header("content-length")) == (200, str(len(body)))
    assert json.loads(body)["id"] == "users/all"
    listed = json.loads((await collect(setting.gateway, status("list-endpoints", "some")))[1])
    assert listed["clusters"]["one"]["frameworks"]["vllm"]["models"] == ["a"]
    for credential in ("", "wrong", "all"):
        assert json.loads((await collect(setting.gateway, status("status", credential)))[1]) == {"one": True}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (status("whoami", ""), Reason.CREDENTIAL_MISSING),
        (status("whoami", "wrong"), Reason.CREDENTIAL_INVALID),
        (status("whoami", method="POST"), Reason.METHOD_NOT_ALLOWED),
        (status("nothing"), Reason.OPERATION_NOT_FOUND),
    ],
)
async def test_who_may_not_see_the_status(setting, asked, reason):
    assert await setting.refusal(asked) is reason


async def test_whoever_leaves_while_a_queue_is_asked_is_told_nothing(setting):
    queue = GlobusFunction("e", "f")
    setting.roster.set_catalogue(
        Catalogue.of([Cluster("clusters/one", queue_status=queue), Endpoint(ENDPOINT, SessionBackend())])
    )
    answer, call = setting.open(status("jobs"), credit=10)
    call.grant(5)
    await asyncio.sleep(0)
    call.cancel()
    answer.left = True
    await asyncio.sleep(0)
    setting.queues.answering.set()
    await asyncio.sleep(0)
    assert (setting.queues.left, answer.heads) == (1, [])


async def test_an_answer_that_took_a_while_keeps_to_the_credit(setting):
    answer, call = setting.open(status("jobs"), credit=10)
    begun = asyncio.Event()
    answer.on_data = lambda chunk: begun.set()
    await begun.wait()
    assert len(answer.body) == 10
    call.grant(1 << 20)
    assert answer.ends == [None]
    assert json.loads(bytes(answer.body))["running"][0]["Models"] == "a"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"model":"a"', "body_not_json"),
        (b'{"model":"none"}', "model_not_found"),
        (b'{"model":"a","max_tokens":1,"max_tokens":2}', "duplicate_key"),
    ],
)
async def test_refused_calls_of_known_callers_are_recorded_once(body, reason):
    setting = Setting()
    answer, _ = setting.open(request(body))
    await answer.over.wait()
    (record,) = setting.books.records
    assert (record.outcome, record.status, record.endpoint) == (reason, answer.error.kind.http, "")
    assert (record.input_tokens, record.output_tokens, record.estimated) == (0, 0, False)


@pytest.mark.parametrize("at_a_server", [True, False])
async def test_what_ends_with_the_router_was_not_left_by_its_caller(at_a_server):
    setting = Setting()
    setting.server.ready = at_a_server
    answer, _ = setting.open(request())
    await asyncio.sleep(0)
    assert len(setting.answerer.calls) == at_a_server
    await setting.gateway.close()
    assert (answer.reason, len(answer.ends)) == (Reason.SHUTTING_DOWN, 1)
    assert answer.error.retry_after == (None if at_a_server else 1.0)
    assert all(call.cancelled for call in setting.answerer.calls)
    (record,) = setting.books.records
    assert (record.outcome, record.status) == ("shutting_down", 503)
    assert (setting.gateway.open_calls, setting.server.open_calls, setting.roster.waiting) == (0, 0, 0)
