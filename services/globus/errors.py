"""What goes wrong at Globus Compute, in kinds that a program tells apart and sentences that a person acts on."""

from __future__ import annotations

import enum
import re
from typing import Any, Final

import globus_sdk
from globus_compute_sdk.errors import TaskExecutionFailed


class Kind(enum.StrEnum):
    """What went wrong."""

    BAD_CREDENTIALS = "bad_credentials"
    UNKNOWN_ENDPOINT = "unknown_endpoint"
    OFFLINE = "offline"
    FUNCTION_NOT_ALLOWED = "function_not_allowed"
    UNKNOWN_FUNCTION = "unknown_function"
    TOO_LARGE = "too_large"
    SERVICE_UNAVAILABLE = "service_unavailable"
    TASK_FAILED = "task_failed"
    SCHEDULER_REJECTED = "scheduler_rejected"
    OTHER = "other"


REMEDIES: Final = {
    Kind.BAD_CREDENTIALS: "Check the client id and the secret, or log in again, and that they belong to this Globus.",
    Kind.UNKNOWN_ENDPOINT: "Check the endpoint's UUID in the catalogue against 'globus-compute-endpoint list'.",
    Kind.OFFLINE: "Start it at its site: 'globus-compute-endpoint start'.",
    Kind.FUNCTION_NOT_ALLOWED: "Add the function's UUID to 'allowed_functions' in the endpoint's config.yaml, and start"
    " the endpoint again.",
    Kind.UNKNOWN_FUNCTION: "Register the functions: 'weft functions register'.",
    Kind.TOO_LARGE: "Globus Compute carries 10 MiB a task and a result: send less, or use an endpoint whose workers"
    " keep a session.",
    Kind.SERVICE_UNAVAILABLE: "It is tried again; see https://status.globus.org/ if it lasts.",
    Kind.TASK_FAILED: "Its text comes from the node; the endpoint's logs there say more.",
    Kind.SCHEDULER_REJECTED: "Correct the account, the queue or the size of the job in the endpoint's configuration.",
    Kind.OTHER: "The log of the launcher says more.",
}


class GlobusError(Exception):
    """An error of Globus Compute. `sentence` says what happened, `remedy` what to do about it; `remote` is the whole
    text of a task that failed.
    """

    def __init__(self, kind: Kind, sentence: str, remedy: str | None = None, *, remote: str = "") -> None:
        self.kind = kind
        self.sentence = sentence
        self.remedy = REMEDIES[kind] if remedy is None else remedy
        self.remote = remote
        super().__init__(f"{sentence} {self.remedy}".strip())


_REMOTE: Final = (
    (Kind.FUNCTION_NOT_ALLOWED, re.compile(r"[Ff]unction \S+ not permitted")),
    (Kind.TOO_LARGE, re.compile(r"MaxResultSizeExceeded|exceeded current limit")),
    (
        Kind.SCHEDULER_REJECTED,
        re.compile(r"ScaleOutFailed|SubmitException|ScalingFailed|Cannot launch job|\b(?:sbatch|qsub): "),
    ),
)
_SCHEDULER_SAYS: Final = re.compile(r"\b(?:sbatch|qsub): .*")
_BY_CODE: Final = {
    "ENDPOINT_NOT_FOUND": Kind.UNKNOWN_ENDPOINT,
    "FUNCTION_NOT_FOUND": Kind.UNKNOWN_FUNCTION,
    "FUNCTION_NOT_PERMITTED": Kind.FUNCTION_NOT_ALLOWED,
    "ENDPOINT_NOT_ONLINE": Kind.OFFLINE,
    "PAYLOAD_TOO_LARGE": Kind.TOO_LARGE,
}
_TOO_MANY: Final = 429
_BY_STATUS: Final = {
    401: Kind.BAD_CREDENTIALS,
    409: Kind.OFFLINE,
    413: Kind.TOO_LARGE,
    _TOO_MANY: Kind.SERVICE_UNAVAILABLE,
}
_LONGEST: Final = 2000


def explain(error: BaseException) -> GlobusError:
    """What an exception of the SDK means."""
    match error:
        case GlobusError():
            return error
        case TaskExecutionFailed():
            return _remote(error.remote_data)
        case globus_sdk.AuthAPIError() if error.http_status < 500 and error.http_status != _TOO_MANY:
            return GlobusError(Kind.BAD_CREDENTIALS, f"Globus Auth refuses the credentials: {_said(error)}.")
        case globus_sdk.GlobusAPIError():
            return _answered(error)
        case globus_sdk.NetworkError() | OSError():
            return GlobusError(Kind.SERVICE_UNAVAILABLE, f"Globus Compute cannot be reached: {_short(str(error))}.")
    return GlobusError(Kind.OTHER, f"Globus Compute's SDK failed: {type(error).__name__}: {_short(str(error))}.")


def _remote(text: str) -> GlobusError:
    """A task that failed, by the text that came back."""
    for kind, pattern in _REMOTE:
        if pattern.search(text):
            said = dict.fromkeys(_SCHEDULER_SAYS.findall(text)) if kind is Kind.SCHEDULER_REJECTED else ()
            return GlobusError(kind, f"The endpoint answers: {'; '.join(said) or _last_line(text)}.", remote=text)
    return GlobusError(Kind.TASK_FAILED, f"The task failed: {_last_line(text)}.", remote=text)


def _answered(error: globus_sdk.GlobusAPIError) -> GlobusError:
    """An error that the service answered with."""
    kind = _BY_CODE.get(error.code or "") or _BY_STATUS.get(error.http_status)
    if kind is None:
        kind = Kind.SERVICE_UNAVAILABLE if error.http_status >= 500 else Kind.OTHER
    who = "Globus Auth" if isinstance(error, globus_sdk.AuthAPIError) else "Globus Compute"
    return GlobusError(kind, f"{who} answers {error.http_status}: {_said(error)}.")


def _said(error: globus_sdk.GlobusAPIError) -> str:
    body: dict[str, Any] = error.raw_json if isinstance(error.raw_json, dict) else {}
    return _short(str(body.get("reason") or error.message or body.get("error") or error.code or error.text))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]  # the agent draws lines of dashes
    return _short(lines[-1] if lines else "it says nothing")


def _short(text: str) -> str:
    return text.strip().rstrip(".")[:_LONGEST]
