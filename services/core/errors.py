"""The catalogue of the errors that Weft itself gives.

Raised as `ServiceError`; turned into gRPC status in `services/rpc/status.py`, into HTTP in `http_errors.py` here, and
nowhere else. What vLLM answers, its errors included, passes through and is not here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Reason(enum.Enum):
    """Why, by the names and numbers of `weft.errors.v1.Reason`."""

    BODY_NOT_JSON = 1
    BODY_NOT_OBJECT = 2
    BODY_TOO_DEEP = 3
    DUPLICATE_KEY = 4
    FIELD_INVALID = 5
    MODEL_REQUIRED = 6
    HEADER_INVALID = 7
    CREDENTIAL_MISSING = 8
    CREDENTIAL_INVALID = 9
    CREDENTIAL_EXPIRED = 10
    MODEL_FORBIDDEN = 11
    ACTION_FORBIDDEN = 12
    MODEL_NOT_FOUND = 13
    OPERATION_NOT_FOUND = 14
    RESOURCE_NOT_FOUND = 15
    METHOD_NOT_ALLOWED = 16
    RESOURCE_EXISTS = 17
    RESOURCE_CHANGED = 18
    RESOURCE_IN_USE = 19
    ARGUMENT_INVALID = 20
    REQUEST_TIMEOUT = 21
    BODY_TOO_LARGE = 22
    HEADERS_TOO_LARGE = 23
    CONTENT_ENCODING_UNSUPPORTED = 24
    CANCELLED = 25
    OVERLOADED = 26
    NO_WORKER = 27
    WORKER_LOST = 28
    UPSTREAM_UNREACHABLE = 29
    UPSTREAM_BROKEN = 30
    CLUSTER_MAINTENANCE = 31
    SHUTTING_DOWN = 32
    ROUTER_UNAVAILABLE = 33
    REGISTRY_UNAVAILABLE = 34
    AUTH_UNAVAILABLE = 35
    FIRST_BYTE_TIMEOUT = 36
    STALL_TIMEOUT = 37
    TOTAL_TIMEOUT = 38
    PROTOCOL_VIOLATION = 39
    INTERNAL = 40
    LAUNCHER_UNAVAILABLE = 41
    MODEL_STARTING = 42
    IDENTITY_FORBIDDEN = 43
    SESSION_INSUFFICIENT = 44
    FRAMEWORK_UNSUPPORTED = 45
    OPERATION_UNSUPPORTED = 46
    REQUESTS_EXHAUSTED = 47
    TOKENS_EXHAUSTED = 48
    CALLS_EXHAUSTED = 49
    TOKENS_ABOVE_LIMIT = 50
    LIMITS_UNAVAILABLE = 51
    REQUEST_REFUSED = 52
    ANSWER_TOO_LARGE = 53


class GrpcCode(enum.Enum):
    """gRPC status codes by name and number (https://grpc.io/docs/guides/status-codes/); the domain imports no grpc."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """What a reason means on every surface.

    `sentence` is said when the raiser has nothing more exact to say; `example` is an exact message as a raiser writes
    it. `elsewhere` tells that another worker may answer the same call, so that the router may retry it there.
    """

    http: int
    grpc: GrpcCode
    type: str
    code: str | None
    sentence: str
    example: str
    elsewhere: bool = False


_BAD = "invalid_request_error"
_AUTHN = "authentication_error"
_FORBIDDEN = "permission_error"
_SERVER = "server_error"
_TIMEOUT = "timeout_error"
_LIMIT = "rate_limit_exceeded"
"""OpenAI's `code` of all limits; its `type` says of what."""

CATALOGUE: Final[dict[Reason, ErrorKind]] = {
    Reason.BODY_NOT_JSON: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "body_not_json",
        "The request's body is not JSON.",
        "The request's body is not JSON: unexpected end of data at byte 17.",
    ),
    Reason.BODY_NOT_OBJECT: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "body_not_object",
        "The request's body must be a JSON object.",
        "The request's body must be a JSON object, not an array.",
    ),
    Reason.BODY_TOO_DEEP: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "body_too_deep",
        "The request's body is nested too deep.",
        "The request's body is nested too deep.",
    ),
    Reason.DUPLICATE_KEY: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "duplicate_key",
        "A key stands twice in the request's body.",
        "The key 'model' stands twice in the request's body; send it once.",
    ),
    Reason.FIELD_INVALID: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "field_invalid",
        "A field of the request has a wrong type.",
        "'model' must be a string.",
    ),
    Reason.MODEL_REQUIRED: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "model_required",
        "The request names no model.",
        "The request names no model, and you may use several; set 'model' to one of those that GET /v1/models lists.",
    ),
    Reason.HEADER_INVALID: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "header_invalid",
        "The request line or a header is malformed.",
        "The request line or a header is malformed.",
    ),
    Reason.CREDENTIAL_MISSING: ErrorKind(
        401, GrpcCode.UNAUTHENTICATED, _AUTHN, "missing_api_key",
        "No API key was sent; send it as 'Authorization: Bearer KEY'.",
        "No API key was sent; send it as 'Authorization: Bearer KEY'.",
    ),
    Reason.CREDENTIAL_INVALID: ErrorKind(
        401, GrpcCode.UNAUTHENTICATED, _AUTHN, "invalid_api_key",
        "The API key is not known here; ask your administrator for one.",
        "The API key is not known here; ask your administrator for one.",
    ),
    Reason.CREDENTIAL_EXPIRED: ErrorKind(
        401, GrpcCode.UNAUTHENTICATED, _AUTHN, "expired_api_key",
        "The API key has expired; ask your administrator for a new one.",
        "The API key has expired; ask your administrator for a new one.",
    ),
    Reason.MODEL_FORBIDDEN: ErrorKind(
        403, GrpcCode.PERMISSION_DENIED, _FORBIDDEN, "model_forbidden",
        "Your credential does not allow this model.",
        "Your credential does not allow the model 'llama-70b'; GET /v1/models lists those that it does.",
    ),
    Reason.ACTION_FORBIDDEN: ErrorKind(
        403, GrpcCode.PERMISSION_DENIED, _FORBIDDEN, "action_forbidden",
        "Your credential does not allow this.",
        "Creating a cluster needs a key with the role 'admin'.",
    ),
    Reason.IDENTITY_FORBIDDEN: ErrorKind(
        403, GrpcCode.PERMISSION_DENIED, _FORBIDDEN, "identity_forbidden",
        "You are known, and not admitted here; ask your administrator.",
        "'users/alice@example.org' is not admitted here: it is for identities of anl.gov.",
    ),
    Reason.SESSION_INSUFFICIENT: ErrorKind(
        403, GrpcCode.PERMISSION_DENIED, _FORBIDDEN, "session_insufficient",
        "Your login is too old or too weak for this; log in again: 'weft login --force'.",
        "You may not use the model 'llama-70b': you must have logged in within the last 3600 s. "
        "Log in again: 'weft login --force'.",
    ),
    Reason.FRAMEWORK_UNSUPPORTED: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "framework_unsupported",
        "The cluster does not run this framework.",
        "The cluster 'sophia' runs no framework 'tgi'; it runs vllm.",
    ),
    Reason.OPERATION_UNSUPPORTED: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "operation_unsupported",
        "The cluster does not offer this operation.",
        "The cluster 'sophia' does not offer embeddings; it offers chat/completions, completions.",
    ),
    Reason.MODEL_NOT_FOUND: ErrorKind(
        404, GrpcCode.NOT_FOUND, _BAD, "model_not_found",
        "The model does not exist.",
        "The model `lama` does not exist.",
    ),
    Reason.OPERATION_NOT_FOUND: ErrorKind(
        404, GrpcCode.UNIMPLEMENTED, _BAD, "operation_not_found",
        "There is no such URL.",
        "There is no operation '/v1/chat/complete'.",
    ),
    Reason.RESOURCE_NOT_FOUND: ErrorKind(
        404, GrpcCode.NOT_FOUND, _BAD, "resource_not_found",
        "There is no resource of that name.",
        "There is no 'clusters/sophia'.",
    ),
    Reason.METHOD_NOT_ALLOWED: ErrorKind(
        405, GrpcCode.UNIMPLEMENTED, _BAD, "method_not_allowed",
        "The URL exists, but not with this method.",
        "/v1/chat/completions takes POST, not GET.",
    ),
    Reason.RESOURCE_EXISTS: ErrorKind(
        409, GrpcCode.ALREADY_EXISTS, _BAD, "resource_exists",
        "A resource of that name exists already.",
        "'clusters/sophia' exists already; update it, or choose another name.",
    ),
    Reason.RESOURCE_CHANGED: ErrorKind(
        409, GrpcCode.ABORTED, _BAD, "resource_changed",
        "The resource has changed since it was read; read it again.",
        "'clusters/sophia' has changed since it was read; read it again.",
    ),
    Reason.RESOURCE_IN_USE: ErrorKind(
        409, GrpcCode.FAILED_PRECONDITION, _BAD, "resource_in_use",
        "The resource is still used by another.",
        "'clusters/sophia' still has 3 endpoints; delete them first.",
    ),
    Reason.ARGUMENT_INVALID: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "argument_invalid",
        "A field of the request is wrong.",
        "'endpoint.name' must look like 'clusters/{cluster}/endpoints/{endpoint}'.",
    ),
    Reason.REQUEST_TIMEOUT: ErrorKind(
        408, GrpcCode.DEADLINE_EXCEEDED, _TIMEOUT, "request_timeout",
        "The request did not arrive in time.",
        "The request's headers did not arrive within 10 s.",
    ),
    Reason.BODY_TOO_LARGE: ErrorKind(
        413, GrpcCode.RESOURCE_EXHAUSTED, _BAD, "body_too_large",
        "The request's body is too large.",
        "The request's body is larger than 33554432 bytes.",
    ),
    Reason.HEADERS_TOO_LARGE: ErrorKind(
        431, GrpcCode.RESOURCE_EXHAUSTED, _BAD, "headers_too_large",
        "The request's headers are too large.",
        "The request line and headers are larger than 65536 bytes.",
    ),
    Reason.CONTENT_ENCODING_UNSUPPORTED: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "content_encoding_unsupported",
        "Compressed request bodies are not read; send the body without Content-Encoding.",
        "Request bodies with Content-Encoding 'gzip' are not read; send the body without it.",
    ),
    Reason.REQUESTS_EXHAUSTED: ErrorKind(
        429, GrpcCode.RESOURCE_EXHAUSTED, "requests", _LIMIT,
        "Too many calls within a second; wait as long as 'Retry-After' says.",
        "'users/alice' may begin 10 calls a second; try again in 0.3 s.",
    ),
    Reason.TOKENS_EXHAUSTED: ErrorKind(
        429, GrpcCode.RESOURCE_EXHAUSTED, "tokens", _LIMIT,
        "Too many tokens within a minute or a day; wait as long as 'Retry-After' says.",
        "'users/alice' may use 1000 tokens per minute, of which 120 are left, and this call may use up to 300; "
        "try again in 12 s.",
    ),
    Reason.CALLS_EXHAUSTED: ErrorKind(
        429, GrpcCode.RESOURCE_EXHAUSTED, "concurrent_requests", _LIMIT,
        "Too many calls at once; wait until one has ended.",
        "'users/alice' may have 8 calls open at once; try again when one has ended.",
    ),
    Reason.TOKENS_ABOVE_LIMIT: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "tokens_above_limit",
        "The call may use more tokens than its limits ever allow; ask for fewer.",
        "This call may use up to 5000 tokens, and 'users/alice' may use 1000 per minute; give a 'max_tokens' "
        "that is lower by 4000, or shorten the prompt.",
    ),
    Reason.LIMITS_UNAVAILABLE: ErrorKind(
        503, GrpcCode.UNAVAILABLE, _SERVER, "limits_unavailable",
        "Your limits cannot be counted at present, as the store that counts is away; try again shortly.",
        "Your limits cannot be counted at present, as the store that counts is away; try again shortly.",
    ),
    Reason.REQUEST_REFUSED: ErrorKind(
        400, GrpcCode.INVALID_ARGUMENT, _BAD, "request_refused",
        "The model server refuses the request.",
        "max_tokens must be at least 1, got 0.",
    ),
    Reason.ANSWER_TOO_LARGE: ErrorKind(
        502, GrpcCode.RESOURCE_EXHAUSTED, _SERVER, "answer_too_large",
        "The answer is larger than one message may be; ask for less at once, or for a stream.",
        "The answer is larger than 67108864 bytes, the most that one message may have; ask for less at once, or for a "
        "stream.",
    ),
    Reason.CANCELLED: ErrorKind(
        499, GrpcCode.CANCELLED, _BAD, "cancelled",
        "The caller left before the answer was whole.",
        "The caller left before the answer was whole.",
    ),
    Reason.OVERLOADED: ErrorKind(
        503, GrpcCode.RESOURCE_EXHAUSTED, _SERVER, "overloaded",
        "Too many calls are open at present; try again shortly.",
        "The router has 4096 calls open, which is its limit; try again shortly.",
        elsewhere=True,
    ),
    Reason.NO_WORKER: ErrorKind(
        503, GrpcCode.UNAVAILABLE, _SERVER, "no_worker",
        "No worker serves this model at present; try again shortly.",
        "No worker serves 'llama-70b' at present; try again shortly.",
    ),
    Reason.MODEL_STARTING: ErrorKind(
        503, GrpcCode.UNAVAILABLE, _SERVER, "model_starting",
        "No worker serves this model yet, but one is being started; try again later.",
        "No worker serves 'llama-70b' yet: its job is third in the queue, expected to start at 14:05.",
    ),
    Reason.WORKER_LOST: ErrorKind(
        502, GrpcCode.UNAVAILABLE, _SERVER, "worker_lost",
        "The connection to the worker was lost.",
        "The connection to the worker of 'clusters/local/endpoints/sim' was lost.",
        elsewhere=True,
    ),
    Reason.UPSTREAM_UNREACHABLE: ErrorKind(
        502, GrpcCode.UNAVAILABLE, _SERVER, "upstream_unreachable",
        "The model server cannot be reached.",
        "The worker cannot reach its vLLM: connection refused.",
        elsewhere=True,
    ),
    Reason.UPSTREAM_BROKEN: ErrorKind(
        502, GrpcCode.UNAVAILABLE, _SERVER, "upstream_broken",
        "The model server broke off its answer.",
        "vLLM broke off its answer after 1024 bytes.",
        elsewhere=True,
    ),
    Reason.CLUSTER_MAINTENANCE: ErrorKind(
        503, GrpcCode.UNAVAILABLE, _SERVER, "cluster_maintenance",
        "The cluster is under maintenance.",
        "The cluster 'sophia' is under maintenance: back on Monday.",
    ),
    Reason.SHUTTING_DOWN: ErrorKind(
        503, GrpcCode.UNAVAILABLE, _SERVER, "shutting_down",
        "This part of Weft is shutting down; try again shortly.",
        "The worker is shutting down; try again shortly.",
        elsewhere=True,
    ),
    Reason.ROUTER_UNAVAILABLE: ErrorKind(
        503, GrpcCode.UNAVAILABLE, _SERVER, "router_unavailable",
        "The router cannot be reached; try again shortly.",
        "The router at 127.0.0.1:7000 cannot be reached; try again shortly.",
    ),
    Reason.REGISTRY_UNAVAILABLE: ErrorKind(
        503, GrpcCode.UNAVAILABLE, _SERVER, "registry_unavailable",
        "The registry cannot be reached; try again shortly.",
        "The router has not yet had the catalogue from the registry; try again shortly.",
    ),
    Reason.AUTH_UNAVAILABLE: ErrorKind(
        503, GrpcCode.UNAVAILABLE, _SERVER, "auth_unavailable",
        "Your key cannot be judged at present, as the auth service does not answer; try again shortly.",
        "Your key cannot be judged at present, as the auth service does not answer; try again shortly.",
    ),
    Reason.FIRST_BYTE_TIMEOUT: ErrorKind(
        504, GrpcCode.DEADLINE_EXCEEDED, _TIMEOUT, "first_byte_timeout",
        "No first byte of the answer came in time.",
        "No first byte of the answer came within 600 s.",
    ),
    Reason.STALL_TIMEOUT: ErrorKind(
        504, GrpcCode.DEADLINE_EXCEEDED, _TIMEOUT, "stall_timeout",
        "The answer stalled.",
        "The answer stalled: no byte came for 120 s.",
    ),
    Reason.TOTAL_TIMEOUT: ErrorKind(
        504, GrpcCode.DEADLINE_EXCEEDED, _TIMEOUT, "total_timeout",
        "The call took longer than it may.",
        "The call took longer than 3600 s in total.",
    ),
    Reason.PROTOCOL_VIOLATION: ErrorKind(
        502, GrpcCode.INTERNAL, _SERVER, "protocol_violation",
        "A peer broke the rules of the session protocol.",
        "A peer broke the rules of the session protocol: data beyond its credit on call 7.",
    ),
    Reason.INTERNAL: ErrorKind(
        500, GrpcCode.INTERNAL, _SERVER, "internal_error",
        "Something went wrong inside Weft; its log says more, under this request's id.",
        "Something went wrong inside Weft; its log says more, under this request's id.",
    ),
    Reason.LAUNCHER_UNAVAILABLE: ErrorKind(
        503, GrpcCode.UNAVAILABLE, _SERVER, "launcher_unavailable",
        "The launcher, which starts workers, cannot be reached; try again shortly.",
        "The launcher, which starts workers, cannot be reached; try again shortly.",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """A limit that was reached: whose (`users/alice`), and which, in words (`1000 tokens per minute`)."""

    subject: str
    description: str


class ServiceError(Exception):
    """An error of the catalogue, on its way to whoever called.

    `param` names the parameter or field at fault; `retry_after` is in seconds. `violations` are limits that were
    reached, `headers` go with the error over HTTP. `principal` names who was refused, where the credential is known and
    admits nobody, for audit logs. What a model server said has a status of its own over gRPC, `grpc`, which does
    not travel within the mesh, and `info` about it.
    """

    def __init__(
        self,
        reason: Reason,
        message: str | None = None,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        violations: tuple[QuotaViolation, ...] = (),
        headers: tuple[tuple[str, str], ...] = (),
        principal: str = "",
        grpc: GrpcCode | None = None,
        info: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.reason = reason
        self.kind = CATALOGUE[reason]
        self.message = message or self.kind.sentence
        self.param = param
        self.retry_after = retry_after
        self.violations = violations
        self.headers = headers
        self.principal = principal
        self.grpc = grpc or self.kind.grpc
        self.info = info
        super().__init__(self.message)

    def __repr__(self) -> str:
        return f"ServiceError({self.reason.name}, {self.message!r})"
