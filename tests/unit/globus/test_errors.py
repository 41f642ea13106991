"""What the SDK's errors mean, in kinds and in sentences with a remedy."""

import json
from typing import Any

import globus_sdk
import pytest
import requests
from globus_compute_sdk.errors import TaskExecutionFailed

from services.globus.errors import REMEDIES, GlobusError, Kind, explain


def answered(status: int, body: dict[str, Any], kind: type[globus_sdk.GlobusAPIError]) -> globus_sdk.GlobusAPIError:
    response = requests.Response()
    response.status_code, response._content = status, json.dumps(body).encode()
    response.headers["Content-Type"] = "application/json"
    response.request = requests.Request("GET", "http://localhost:5000/").prepare()
    return kind(response)


API, AUTH = globus_sdk.ComputeAPIError, globus_sdk.AuthAPIError


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (
            answered(401, {"error": "invalid_client"}, AUTH),
            Kind.BAD_CREDENTIALS,
            "Globus Auth refuses the credentials: invalid_client.",
        ),
        (
            answered(503, {"error": "busy"}, AUTH),
            Kind.SERVICE_UNAVAILABLE,
            "Globus Auth answers 503: busy.",
        ),
        (answered(429, {}, AUTH), Kind.SERVICE_UNAVAILABLE, ""),
        (
            answered(401, {"code": "UNAUTHORIZED", "reason": "The token is old."}, API),
            Kind.BAD_CREDENTIALS,
            "Globus Compute answers 401: The token is old.",
        ),
        (
            answered(404, {"code": "ENDPOINT_NOT_FOUND", "reason": "no such endpoint"}, API),
            Kind.UNKNOWN_ENDPOINT,
            "Globus Compute answers 404: no such endpoint.",
        ),
        (answered(404, {"code": "FUNCTION_NOT_FOUND", "reason": "x"}, API), Kind.UNKNOWN_FUNCTION, ""),
        (answered(403, {"code": "FUNCTION_NOT_PERMITTED", "reason": "x"}, API), Kind.FUNCTION_NOT_ALLOWED, ""),
        (answered(409, {"code": "ENDPOINT_NOT_ONLINE", "reason": "x"}, API), Kind.OFFLINE, ""),
        (answered(413, {}, API), Kind.TOO_LARGE, ""),
        (answered(429, {}, API), Kind.SERVICE_UNAVAILABLE, ""),
        (answered(502, {}, API), Kind.SERVICE_UNAVAILABLE, ""),
        (answered(418, {}, API), Kind.OTHER, ""),
        (
            globus_sdk.NetworkError("refused", OSError("refused")),
            Kind.SERVICE_UNAVAILABLE,
            "Globus Compute cannot be reached: refused.",
        ),
        (ValueError("x"), Kind.OTHER, "Globus Compute's SDK failed: ValueError: x."),
        (
            TaskExecutionFailed("Traceback\nKeyError: 'x'\n\n-----\n"),
            Kind.TASK_FAILED,
            "The task failed: KeyError: 'x'.",
        ),
        (TaskExecutionFailed(""), Kind.TASK_FAILED, "The task failed: it says nothing."),
        (
            TaskExecutionFailed("Failed to start block 0: Cannot launch job b: stderr=qsub: Unknown queue\n----"),
            Kind.SCHEDULER_REJECTED,
            "The endpoint answers: qsub: Unknown queue.",
        ),
        (TaskExecutionFailed("ScalingFailed: no"), Kind.SCHEDULER_REJECTED, "The endpoint answers: ScalingFailed: no."),
        (TaskExecutionFailed("Function f not permitted on endpoint e"), Kind.FUNCTION_NOT_ALLOWED, ""),
        (TaskExecutionFailed("Task result of 9B exceeded current limit of 8B"), Kind.TOO_LARGE, ""),
    ],
)
def test_each_error_has_its_kind(error: Exception, kind: Kind, sentence: str) -> None:
    explained = explain(error)
    assert explained.kind is kind
    assert explained.remedy == REMEDIES[kind]
    assert explained.sentence == sentence or not sentence
    assert explain(explained) is explained


def test_the_whole_text_of_a_task_is_kept() -> None:
    assert explain(TaskExecutionFailed("all\nof it")).remote == "all\nof it"
    assert str(GlobusError(Kind.OTHER, "No.", "")) == "No."
