"""The application below a fake connection: ids, windows, and what it does without a call."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from services.core.answers import ReadyAnswer
from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Head, Receiver, Request
from services.facade.app import App, AppSettings
from services.facade.guard import CONNECTION

CHAT = "/v1/chat/completions"
KEYED = ((b"authorization", b"Bearer key"),)
SETTINGS = AppSettings(max_body=1000, max_arriving=3000, call_window=256 * 1024, window_budget=1024 * 1024)


class Mesh:
    """An inference that keeps what it is asked, and answers when it is told to."""

    def __init__(self, answer: tuple[Head, bytes] | ServiceError) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.credits: list[int] = []
        self.answers: list[ReadyAnswer] = []
        self.at_once = True
        self.asked: asyncio.Queue[None] = asyncio.Queue()

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`."""
        self.requests.append(request)
        self.credits.append(credit)
        self.answers.append(ReadyAnswer(self.answer, receiver, credit))
        self.asked.put_nowait(None)
        if self.at_once:
            asyncio.get_running_loop().call_soon(self.answers[-1].tell)
        return self.answers[-1]


class Connection:
    """Nothing happens to it."""

    on_leave = None

    def send_now(self, body: bytes) -> bool:
        """See `facade.guard.Connection`."""
        return False

    def abort(self) -> None:
        """See `facade.guard.Connection`."""


class Answered:
    """What the client got."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's `send`."""
        self.messages.append(message)

    @property
    def status(self) -> int:
        """The status; 0 if nothing was answered."""
        return int(self.messages[0]["status"]) if self.messages else 0

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers."""
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        """The body."""
        return b"".join(message["body"] for message in self.messages[1:])


WELL = (Head(200, (("content-type", "application/json"),)), b"{}")


async def ask(
    mesh: Mesh,
    path: str = CHAT,
    *,
    method: str = "POST",
    headers: Any = (),
    keyed: bool = True,
    ready: bool = True,
    pieces: Any = (b"{}",),
) -> Answered:
    app, answered = App(mesh, lambda: _soon(ready), SETTINGS), Answered()
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if messages:
        messages[-1]["more_body"] = False
    messages.append({"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    if keyed and not any(name in (b"authorization", b"x-api-key") for name, _ in headers):
        headers = [*headers, *KEYED]
    await app(_scope(path, method, headers), receive, answered.send)
    return answered


def _scope(path: str, method: str = "POST", headers: Any = KEYED) -> dict[str, Any]:
    extensions = {CONNECTION: Connection()}
    return {"method": method, "path": path, "scheme": "http", "headers": list(headers), "extensions": extensions}


async def _soon(ready: bool) -> bool:
    return ready


@pytest.mark.parametrize(
    ("path", "method", "mesh"),
    [
        (CHAT, "POST", Mesh(WELL)),
        (CHAT, "POST", Mesh(ServiceError(Reason.NO_WORKER))),
        (CHAT, "GET", Mesh(WELL)),
        (CHAT + "/", "POST", Mesh(WELL)),
        ("/v1/models", "GET", Mesh(WELL)),
        ("/nothing", "GET", Mesh(WELL)),
        ("/health", "GET", Mesh(WELL)),
        ("/version", "GET", Mesh(WELL)),
    ],
)
async def test_every_answer_has_the_id_of_its_request(path: str, method: str, mesh: Mesh) -> None:
    answered = await ask(mesh, path, method=method, headers=[(b"x-request-id", b"mine-1")])
    assert answered.headers[b"x-request-id"] == b"mine-1"
    made = [(await ask(mesh, path, method=method)).headers[b"x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    assert all(len(request_id) == 32 for request_id in made)


@pytest.mark.parametrize("bad", [b"", b"a b", b"\xff", b"x" * 129, b"a\tb"])
async def test_an_id_that_cannot_be_shown_is_replaced(bad: bytes) -> None:
    mesh = Mesh(WELL)
    answered = await ask(mesh, headers=[(b"x-request-id", bad)])
    request_id = answered.headers[b"x-request-id"]
    assert request_id != bad
    assert mesh.requests[0].header("x-request-id") == request_id.decode()


async def test_headers_travel_by_a_list() -> None:
    mesh = Mesh(WELL)
    sent = [(b"authorization", b"Bearer k"), (b"cookie", b"c"), (b"x-forwarded-for", b"f"), (b"accept", b"a")]
    await ask(mesh, headers=[*sent, (b"proxy-authorization", b"p"), (b"host", b"h"), (b"x-api-key", b"other")])
    named = {name for name, _ in mesh.requests[0].headers}
    assert named == {"authorization", "accept", "x-request-id"}
    assert mesh.requests[0].header("authorization") == "Bearer k"


async def test_the_key_as_anthropics_clients_send_it() -> None:
    mesh = Mesh(WELL)
    await ask(mesh, "/v1/messages", headers=[(b"x-api-key", b"k")])
    assert mesh.requests[0].header("authorization") == "Bearer k"


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key"])
async def test_of_two_credentials_a_proxy_may_have_judged_the_other(name: bytes) -> None:
    mesh = Mesh(WELL)
    answered = await ask(mesh, "/v1/messages", headers=[(name, b"Bearer good"), (name, b"Bearer other")])
    assert answered.status == 400
    assert not mesh.requests


async def test_windows_shrink_as_calls_open() -> None:
    mesh = Mesh(WELL)
    mesh.at_once = False
    app = App(mesh, lambda: _soon(True), SETTINGS)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    tasks = [asyncio.create_task(app(_scope(CHAT), receive, Answered().send)) for _ in range(100)]
    for _ in tasks:
        await mesh.asked.get()
    assert mesh.credits[0] == 256 * 1024
    assert mesh.credits == sorted(mesh.credits, reverse=True)
    assert mesh.credits[-1] == 16 * 1024
    for answer in mesh.answers:
        answer.tell()
    await asyncio.gather(*tasks)
    tasks = [asyncio.create_task(app(_scope(CHAT), receive, Answered().send))]
    await mesh.asked.get()
    assert mesh.credits[-1] == 256 * 1024
    mesh.answers[-1].tell()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("pieces", [(b"x" * 1001,), (b"x" * 1000, b"x"), [b"x" * 100] * 11])
async def test_bodies_over_the_limit(pieces: Any) -> None:
    mesh = Mesh(WELL)
    assert (await ask(mesh, pieces=pieces)).status == 413
    assert not mesh.requests


async def test_without_a_key_no_body_is_read() -> None:
    mesh = Mesh(WELL)
    assert (await ask(mesh, keyed=False, pieces=(b"x" * 1001,))).status == 401
    assert not mesh.requests


async def test_bodies_that_arrive_are_bounded_together() -> None:
    mesh = Mesh(WELL)
    app = App(mesh, lambda: _soon(True), AppSettings(1000, 1500, 1024, 1024))
    rest = asyncio.get_running_loop().create_future()
    first, second, third = Answered(), Answered(), Answered()

    async def request(answered: Answered, *, whole: asyncio.Future[None] | None) -> None:
        messages = [{"type": "http.request", "body": b"x" * 900, "more_body": whole is not None}]

        async def receive() -> dict[str, Any]:
            if not messages and whole is not None:
                await whole
                return {"type": "http.request", "body": b"", "more_body": False}
            return messages.pop(0)

        await app(_scope(CHAT), receive, answered.send)

    arriving = asyncio.ensure_future(request(first, whole=rest))
    await asyncio.sleep(0)
    await request(second, whole=None)
    rest.set_result(None)
    await arriving
    await request(third, whole=None)
    assert (first.status, second.status, third.status) == (200, 503, 200)


async def test_a_body_in_pieces() -> None:
    mesh = Mesh(WELL)
    assert (await ask(mesh, pieces=(b"x" * 999, b"", b"y"))).status == 200
    assert mesh.requests[0].body == b"x" * 999 + b"y"


async def test_a_client_that_leaves_before_its_body_is_whole_calls_nobody() -> None:
    mesh = Mesh(WELL)
    assert (await ask(mesh, pieces=())).status == 0
    assert not mesh.requests


async def test_health_is_that_of_the_mesh() -> None:
    assert (await ask(Mesh(WELL), "/health", method="GET")).status == 200
    answered = await ask(Mesh(WELL), "/health", method="GET", ready=False)
    assert (answered.status, answered.headers[b"retry-after"]) == (503, b"1")
    assert json.loads(answered.body)["error"]["code"] == "router_unavailable"


async def test_a_facade_leaves_when_the_balancer_in_front_has_surely_read_that_it_does() -> None:
    app = App(Mesh(WELL), lambda: _soon(True), SETTINGS)

    async def check() -> int:
        answered = Answered()
        await app(_scope("/health", "GET", [(b"user-agent", b"Envoy/HC")]), never, answered.send)
        return answered.status

    assert await check() == 200
    leaving = asyncio.ensure_future(app.leave(60.0))
    await asyncio.sleep(0)
    assert await check() == 503
    await asyncio.sleep(0)
    assert not leaving.done()
    assert await check() == 503
    async with asyncio.timeout(20.0):
        await leaving


async def never() -> dict[str, Any]:
    """A client that sends no more."""
    await asyncio.Event().wait()
    return {}


async def test_under_v1_what_names_no_model_is_not_there() -> None:
    mesh = Mesh(ServiceError(Reason.MODEL_REQUIRED))
    assert (await ask(mesh, "/v1/nothing")).status == 404
    assert (await ask(mesh)).status == 400


async def test_what_nobody_expected_is_told_as_an_error_too() -> None:
    class Broken(Mesh):
        def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
            raise RuntimeError("broken")

    answered = await ask(Broken(WELL))
    assert answered.status == 500
    assert json.loads(answered.body)["error"]["code"] == "internal_error"
