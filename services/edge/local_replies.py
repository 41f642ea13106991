"""What Envoy answers by itself at the HTTP front, in OpenAI's shape.

`ext_authz`'s refusals and our direct answers have it already. Everything else that Envoy says of its own is told by a
flag or a status, and gets the words of the catalogue (Envoy's documentation, "Response flags").
"""

from __future__ import annotations

from typing import Any, Final

from services.core.errors import Reason, ServiceError
from services.core.http_errors import render
from services.edge.plain import Plain, extension

_RATE_LIMITED: Final = "Too many requests reach this gateway at present; try again shortly."

_OVERLOADED: Final = "Too many calls are open at this gateway at present; try again shortly."
_UNREACHABLE: Final = "No facade that is ready can be reached at present; try again shortly."
_BROKEN: Final = "The facade broke off before it had answered; try again shortly."
_TOO_SLOW: Final = "The call was ended, as no byte of it came for too long."


def body_of(reason: Reason, message: str | None = None) -> str:
    """The JSON that a facade would answer."""
    return render(ServiceError(reason, message), "").body.decode()


def local_replies() -> Plain:
    """`LocalReplyConfig`: the first mapper that fits counts."""
    return {
        "mappers": [
            _mapper(_details("ext_authz_denied", "direct_response"), None),
            _flagged(["UAEX"], Reason.AUTH_UNAVAILABLE, status=503, retry=True),
            _of_status(429, Reason.REQUESTS_EXHAUSTED, _RATE_LIMITED, retry=True),
            _flagged(["UO", "OM"], Reason.OVERLOADED, _OVERLOADED, status=503, retry=True),
            _flagged(["UH", "UF", "NC", "URX"], Reason.ROUTER_UNAVAILABLE, _UNREACHABLE, status=503, retry=True),
            _flagged(["UC", "UR", "UPE"], Reason.UPSTREAM_BROKEN, _BROKEN, status=502),
            _flagged(["UT", "SI", "DT"], Reason.STALL_TIMEOUT, _TOO_SLOW, status=504),
            _of_status(404, Reason.OPERATION_NOT_FOUND),
            _of_status(408, Reason.REQUEST_TIMEOUT),
            _of_status(413, Reason.BODY_TOO_LARGE),
            _of_status(431, Reason.HEADERS_TOO_LARGE),
            _of_status(503, Reason.OVERLOADED, _OVERLOADED),
            _of_status(400, Reason.HEADER_INVALID, "The request is not HTTP as this gateway takes it."),
        ],
        "body_format": _as_json(_escaped(body_of(Reason.INTERNAL))),
    }


def _flagged(
    flags: list[str], reason: Reason, message: str | None = None, *, status: int, retry: bool = False
) -> Plain:
    return _mapper({"response_flag_filter": {"flags": flags}}, body_of(reason, message), status=status, retry=retry)


def _of_status(status: int, reason: Reason, message: str | None = None, *, retry: bool = False) -> Plain:
    comparison = {"op": "EQ", "value": {"default_value": status, "runtime_key": f"weft.local_reply.{status}"}}
    return _mapper({"status_code_filter": {"comparison": comparison}}, body_of(reason, message), retry=retry)


def _details(*details: str) -> Plain:
    either = " || ".join(f"response.code_details == '{one}'" for one in details)
    cel = extension(
        "access_loggers.extension_filters.cel",
        "extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        expression=either,
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
