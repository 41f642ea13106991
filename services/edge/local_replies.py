"""What Envoy answers by itself at the HTTP front, in OpenAI's shape, and under `/v1/messages` in Anthropic's.

`ext_authz`'s refusals have it already. Everything else that Envoy says of its own is told by a flag or a status, and
gets the words of the catalogue (Envoy's documentation, "Response flags").
"""

from __future__ import annotations

from typing import Any, Final

from services.core.errors import Reason, ServiceError
from services.core.http_errors import render
from services.edge.edge import Edge
from services.edge.plain import Plain, extension

_RATE_LIMITED: Final = "Too many requests reach this gateway at present; try again shortly."

_OVERLOADED: Final = "Too many calls are open at this gateway at present; try again shortly."
_UNREACHABLE: Final = "No facade that is ready can be reached at present; try again shortly."
_BROKEN: Final = "The facade broke off before it had answered; try again shortly."
_TOO_SLOW: Final = "The call was ended, as no byte of it came for too long."


_MESSAGES: Final = "/v1/messages"
_ASKS_MESSAGES: Final = {
    "header_filter": {"header": {"name": ":path", "string_match": {"safe_regex": {"regex": f"{_MESSAGES}([/?].*)?"}}}}
}


def body_of(reason: Reason, message: str | None = None, operation: str = "") -> str:
    """The JSON that a facade would answer to a request for the operation."""
    return render(ServiceError(reason, message), operation).body.decode()


def local_replies(edge: Edge) -> Plain:
    """`LocalReplyConfig`: the first mapper that fits counts."""
    too_large = f"The request's body is larger than {edge.max_body} bytes."
    return {
        "mappers": [
            _mapper(_refused_by_auth(), None),
            *_flagged(["UAEX"], Reason.AUTH_UNAVAILABLE, status=503, retry=True),
            *_of_status(429, Reason.REQUESTS_EXHAUSTED, _RATE_LIMITED, retry=True),
            *_flagged(["UO", "OM"], Reason.OVERLOADED, _OVERLOADED, status=503, retry=True),
            *_flagged(["UH", "UF", "NC", "URX"], Reason.ROUTER_UNAVAILABLE, _UNREACHABLE, status=503, retry=True),
            *_flagged(["UC", "UR", "UPE"], Reason.UPSTREAM_BROKEN, _BROKEN, status=502),
            *_flagged(["UT", "SI", "DT"], Reason.STALL_TIMEOUT, _TOO_SLOW, status=504),
            *_of_status(413, Reason.BODY_TOO_LARGE, too_large),
            *_of_status(503, Reason.OVERLOADED, _OVERLOADED),
            # What is refused before it has a path, or has none of ours.
            _pathless(404, Reason.OPERATION_NOT_FOUND),
            _pathless(408, Reason.REQUEST_TIMEOUT),
            _pathless(431, Reason.HEADERS_TOO_LARGE),
            _pathless(400, Reason.HEADER_INVALID, "The request is not HTTP as this gateway takes it."),
        ],
        "body_format": _as_json(_escaped(body_of(Reason.INTERNAL))),
    }


def _flagged(
    flags: list[str], reason: Reason, message: str | None = None, *, status: int, retry: bool = False
) -> list[Plain]:
    return _shaped({"response_flag_filter": {"flags": flags}}, reason, message, status=status, retry=retry)


def _of_status(status: int, reason: Reason, message: str | None = None, *, retry: bool = False) -> list[Plain]:
    return _shaped(_status(status), reason, message, retry=retry)


def _pathless(status: int, reason: Reason, message: str | None = None) -> Plain:
    return _mapper(_status(status), body_of(reason, message))


def _status(status: int) -> Plain:
    comparison = {"op": "EQ", "value": {"default_value": status, "runtime_key": f"weft.local_reply.{status}"}}
    return {"status_code_filter": {"comparison": comparison}}


def _shaped(
    which: Plain, reason: Reason, message: str | None, *, status: int | None = None, retry: bool
) -> list[Plain]:
    """The same answer in the shape of the route that was asked for."""
    messages = {"and_filter": {"filters": [which, _ASKS_MESSAGES]}}
    return [
        _mapper(messages, body_of(reason, message, _MESSAGES), status=status, retry=retry),
        _mapper(which, body_of(reason, message), status=status, retry=retry),
    ]


def _refused_by_auth() -> Plain:
    cel = extension(
        "access_loggers.extension_filters.cel",
        "extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        expression="response.code_details == 'ext_authz_denied'",
    )
    return {"extension_filter": cel}


def _mapper(which: Plain, body: str | None, *, status: int | None = None, retry: bool = False) -> Plain:
    """Without a body, the answer's own stays."""
    made: dict[str, Any] = {"filter": which}
    if status is not None:
        made["status_code"] = status
    if body is not None:
        made["body"] = {"inline_string": body}
    made["body_format_override"] = _as_json("%LOCAL_REPLY_BODY%")
    headers = [("x-request-id", "%REQ(X-REQUEST-ID)%"), *([("retry-after", "1")] if retry else [])]
    made["headers_to_add"] = [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in headers
    ]
    return made


def _as_json(template: str) -> Plain:
    return {"text_format_source": {"inline_string": template}, "content_type": "application/json"}


def _escaped(text: str) -> str:
    """Text in which Envoy finds nothing to fill in."""
    return text.replace("%", "%%")
