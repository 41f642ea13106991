"""One call as one task, and back."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from services.core.errors import Reason, ServiceError
from services.core.inference import Request
from services.globus.errors import GlobusError, Kind
from services.launcher.bridge_messages import from_globus, from_result, to_payload

E = "clusters/c/endpoints/e"


def payload(body: bytes = b"{}", **how: Any) -> dict[str, Any]:
    request = Request("/v1/chat/completions", how.pop("headers", ()), body, **how)
    return to_payload(request, endpoint=E, slot=2, api_port=8000, timeout=59.5, wait=3)


def test_the_payload_is_that_of_the_contract() -> None:
    headers = (("content-type", "application/json"), ("authorization", "Bearer x"), ("x-request-id", "r"))
    assert payload(b'{"model":"m"}', headers=headers) == {
        "endpoint": E,
        "slot": 2,
        "operation": "/v1/chat/completions",
        "method": "POST",
        "headers": [["content-type", "application/json"], ["x-request-id", "r"]],
        "body": '{"model":"m"}',
        "timeout_s": 59.5,
        "wait_s": 3,
        "api_port": 8000,
    }


def test_a_body_beyond_ascii_travels_byte_for_byte() -> None:
    for body in ("é\u2028".encode(), b"\xff\x00"):
        sent = payload(body)
        assert "body" not in sent
        assert base64.b64decode(sent["body_base64"]) == body


@pytest.mark.parametrize(
    ("result", "body"),
    [({"body": '{"a":"é"}'}, '{"a":"é"}'.encode()), ({"body_base64": "/wA="}, b"\xff\x00"), ({"body": ""}, b"")],
)
def test_an_answer_keeps_its_status_its_body_and_the_headers_that_travel(result: dict[str, str], body: bytes) -> None:
    headers = [["Content-Type", "application/json"], ["content-length", "3"], ["set-cookie", "x"]]
    head, data = from_result({"status": 400, "headers": headers, **result})
    assert (head.status, head.headers, data) == (400, (("content-type", "application/json"),), body)


@pytest.mark.parametrize(
    ("kind", "reason", "elsewhere"),
    [
        ("vllm_unreachable", Reason.UPSTREAM_UNREACHABLE, True),
        ("timeout", Reason.TOTAL_TIMEOUT, False),
        ("result_too_large", Reason.BODY_TOO_LARGE, False),
        ("bad_request", Reason.ARGUMENT_INVALID, False),
        ("something new", Reason.UPSTREAM_BROKEN, True),
    ],
)
def test_what_the_function_says_in_place_of_an_answer(kind: str, reason: Reason, elsewhere: bool) -> None:
    with pytest.raises(ServiceError, match="its words") as error:
        from_result({"error": {"kind": kind, "message": "its words"}})
    assert (error.value.reason, error.value.kind.elsewhere) == (reason, elsewhere)


@pytest.mark.parametrize(
    "result",
    [
        None,
        "text",
        {},
        {"status": 200},
        {"status": "ok", "headers": [], "body": ""},
        {"status": 7, "headers": [], "body": ""},
        {"status": 200, "headers": [["a"]], "body": ""},
        {"status": 200, "headers": [], "body_base64": "§"},
    ],
)
def test_a_result_that_is_no_answer_is_told(result: Any) -> None:
    with pytest.raises(ServiceError, match="no answer") as error:
        from_result(result)
    assert error.value.reason is Reason.UPSTREAM_BROKEN


def test_a_failed_task_may_be_tried_elsewhere_and_a_task_too_large_may_not() -> None:
    offline = from_globus(GlobusError(Kind.OFFLINE, "It is offline."), E)
    assert offline.kind.elsewhere
    assert str(offline) == f"'{E}' cannot be reached: It is offline."
    failed = from_globus(GlobusError(Kind.TASK_FAILED, "KeyError: 'a secret'"), E)
    assert failed.kind.elsewhere
    assert "secret" not in str(failed)
    assert not from_globus(GlobusError(Kind.TOO_LARGE, "Too large."), E).kind.elsewhere
