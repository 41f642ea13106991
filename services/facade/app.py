"""The ASGI application, without a framework: on the way of a call, every layer would cost more than the rest of the
facade.
"""

from __future__ import annotations

import importlib.metadata
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from services.core.errors import Reason, ServiceError
from services.core.headers import TO_ROUTER
from services.core.inference import Headers, Inference, Request
from services.core.tracing import Tracer, log_fields
from services.facade.exchange import Answer, Send, send_error, send_whole
from services.facade.guard import CONNECTION
from services.facade.metrics import Responses
from services.facade.request_id import is_request_id, new_request_id
from services.facade.routes import OPEN_TO_ALL, OWN, Own, Redirect, Route, only, resolve
from services.facade.trace import LEFT, RequestTrace, trace
from services.rpc.balancers import Balancers

log = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]

_SMALLEST_WINDOW: Final = 16 * 1024
_JSON: Final = ((b"content-type", b"application/json"),)
_VERSION: Final = b'{"version":"%b"}' % importlib.metadata.version("weft").encode()
_TRAVELLING: Final = frozenset(name.encode() for name in TO_ROUTER)
_BODY_ERRORS: Final = frozenset(
    {
        Reason.BODY_NOT_JSON,
        Reason.BODY_NOT_OBJECT,
        Reason.BODY_TOO_DEEP,
        Reason.DUPLICATE_KEY,
        Reason.FIELD_INVALID,
        Reason.MODEL_REQUIRED,
    }
)


@dataclass(frozen=True, slots=True)
class AppSettings:
    """Sizes in bytes."""

    max_body: int
    max_arriving: int
    call_window: int
    window_budget: int


class App:
    """Answers HTTP requests. `ready` tells whether the mesh behind can take calls. Calls to models are traced, if there
    is a tracer; what is asked for by GET is none. `responses` counts the answers, if they are counted.
    """

    def __init__(
        self,
        inference: Inference,
        ready: Callable[[], Awaitable[bool]],
        settings: AppSettings,
        tracer: Tracer | None = None,
        responses: Responses | None = None,
    ) -> None:
        self._inference = inference
        self._ready = ready
        self._settings = settings
        self._tracer = tracer
        self._responses = responses
        self._answers: set[Answer] = set()
        self._arriving = 0
        self._balancers = Balancers()
        self._leaving = False

    @property
    def open_calls(self) -> int:
        """Calls that are open."""
        return len(self._answers)

    @property
    def arriving(self) -> int:
        """Bytes of bodies that are arriving."""
        return self._arriving

    async def leave(self, grace: float) -> None:
        """Tells that no more requests are to be sent here, and returns when the balancers in front know it, if there
        are any.
        """
        self._leaving = True
        await self._balancers.know(grace)

    def end_calls(self) -> None:
        """Ends the calls that are open, each with an error that its client can see."""
        for answer in list(self._answers):
            answer.break_off(ServiceError(Reason.SHUTTING_DOWN, retry_after=1.0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        began = time.perf_counter()
        headers, request_id, own_id = _travelling(scope["headers"])
        method, path = scope["method"], scope["path"]
        operation, traced = path, None
        if self._tracer is not None and method == "POST":
            traced = trace(self._tracer, headers, own_id)
        try:
            if path in OWN:
                status = await self._answer(OWN[path], scope, send, request_id)
            else:
                route = resolve(method, path)
                if isinstance(route, Redirect):
                    status = await _redirect(send, route, request_id)
                else:
                    operation = route.operation
                    status = await self._call(route, scope, headers, receive, send, request_id, traced)
        except ServiceError as error:
            if traced is not None:
                traced.error = error.reason
            status = await send_error(send, error, operation, request_id)
        except Exception:
            internal = ServiceError(Reason.INTERNAL)
            ids = log_fields(None if traced is None else traced.context)
            log.exception("an unexpected error ended a request", extra={"request_id": request_id.decode(), **ids})
            if traced is not None:
                traced.error = internal.reason
            # Where the answer has begun, uvicorn refuses this and cuts the connection.
            status = await send_error(send, internal, operation, request_id)
        if self._responses is not None:
            self._responses.count(operation, status, time.perf_counter() - began)
        if traced is not None:
            traced.finish(operation, status, request_id)

    async def _answer(self, what: Own, scope: Scope, send: Send, request_id: bytes) -> int:
        if what is Own.HEALTH:
            return await self._health(scope, send, request_id, b'{"status":"ready"}')
        if what is Own.FIRST_HEALTH:
            return await self._health(scope, send, request_id, b'{"status":"ok"}')  # as FIRST says it
        only("GET", scope["method"])
        return await send_whole(send, 200, _JSON, _VERSION, request_id)

    async def _call(
        self,
        route: Route,
        scope: Scope,
        headers: Headers,
        receive: Receive,
        send: Send,
        request_id: bytes,
        traced: RequestTrace | None,
    ) -> int:
        credentials = sum(name == "authorization" for name, _ in headers)
        if credentials > 1:  # A proxy in front might have judged the other one.
            raise ServiceError(Reason.HEADER_INVALID, "Two credentials are in one request; send one.")
        if not credentials and route.operation not in OPEN_TO_ALL:
            raise ServiceError(Reason.CREDENTIAL_MISSING)  # before a body of any size is read
        body = await self._body(scope, receive) if route.method == "POST" else b""
        if body is None:
            if traced is not None:
                traced.leave()
            return LEFT
        place = None if traced is None else traced.context
        request = Request(route.operation, headers, body, route.method, route.cluster, route.framework, trace=place)
        answer = Answer(send, scope["extensions"][CONNECTION], route.operation, request_id, traced)
        self._answers.add(answer)
        try:
            await answer.relay(self._inference, request, self._window())
        except ServiceError as error:
            if route.known or error.reason not in _BODY_ERRORS:
                raise
            # Under /v1 anything that names a model is tried; what names none is simply not there.
            raise ServiceError(Reason.OPERATION_NOT_FOUND) from error
        finally:
            self._answers.discard(answer)
        return answer.status

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The request's whole body; None if the client left before. Raises BODY_TOO_LARGE,
        CONTENT_ENCODING_UNSUPPORTED.
        """
        limit = self._settings.max_body
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > limit:
                raise _too_large(limit)
            if name == b"content-encoding" and value.lower() != b"identity":
                encoding = value.decode("latin-1")[:40]
                why = f"Request bodies with Content-Encoding '{encoding}' are not read; send the body without it."
                raise ServiceError(Reason.CONTENT_ENCODING_UNSUPPORTED, why)
        pieces: list[bytes] = []
        size = 0
        more = True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                pieces.append(message["body"])
                size += len(message["body"])
                self._arriving += len(message["body"])
                if size > limit:
                    raise _too_large(limit)
                if self._arriving > self._settings.max_arriving:
                    raise ServiceError(Reason.OVERLOADED, retry_after=1.0)
                more = message["more_body"]
        finally:
            self._arriving -= size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _window(self) -> int:
        """Bytes that may wait for one client: the less the more calls are open, so that all together stay bounded."""
        settings = self._settings
        return max(_SMALLEST_WINDOW, min(settings.call_window, settings.window_budget // max(1, len(self._answers))))

    async def _health(self, scope: Scope, send: Send, request_id: bytes, body: bytes) -> int:
        only("GET", scope["method"])
        agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
        self._balancers.note(agent.decode("latin-1"), "{}:{}".format(*scope.get("client") or ("", 0)))
        if self._leaving:
            raise ServiceError(Reason.SHUTTING_DOWN, retry_after=1.0)
        if not await self._ready():
            raise ServiceError(Reason.ROUTER_UNAVAILABLE, "No router that is ready can be reached.", retry_after=1.0)
        return await send_whole(send, 200, _JSON, body, request_id)


def _travelling(headers: list[tuple[bytes, bytes]]) -> tuple[Headers, bytes, str]:
    """The headers that go on to the router, and the request's id: the client's own if it is one that can be shown, else
    a new one, which comes again as text.
    """
    request_id = b""
    credential, api_keys = False, list[bytes]()
    kept: list[tuple[str, str]] = []
    for name, value in headers:
        if name == b"x-request-id":
            if is_request_id(value):
                request_id = value
        elif name in _TRAVELLING:
            credential = credential or name == b"authorization"
            kept.append((name.decode("latin-1"), value.decode("latin-1")))
        elif name == b"x-api-key":
            api_keys.append(value)
    if not credential:  # as Anthropic's clients send it
        kept.extend(("authorization", "Bearer " + api_key.decode("latin-1")) for api_key in api_keys if api_key)
    own_id = ""
    if not request_id:
        own_id = new_request_id()
        request_id = own_id.encode()
    kept.append(("x-request-id", own_id or request_id.decode()))
    return tuple(kept), request_id, own_id


async def _redirect(send: Send, redirect: Redirect, request_id: bytes) -> int:
    # Without scheme and host (RFC 9110, 10.2.2): behind a proxy that ends TLS, ours would lead to where nobody listens.
    return await send_whole(send, 307, ((b"location", redirect.path.encode()),), b"", request_id)


def _too_large(limit: int) -> ServiceError:
    return ServiceError(Reason.BODY_TOO_LARGE, f"The request's body is larger than {limit} bytes.")
