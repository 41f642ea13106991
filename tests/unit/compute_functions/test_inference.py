"""The function against a server that answers to the letter; against vLLM itself it is held by tests/vllm."""

import base64
import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_functions import inference as module
from compute_functions.inference import inference
from services.router.operations import ADMINISTRATIVE, VLLM_EXTRAS
from tests.unit.compute_functions.listener import answer_of, listening

ENDPOINT = "clusters/a/endpoints/b"


@pytest.fixture(autouse=True)
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the slot that the calls below name."""
    monkeypatch.setenv("WEFT_RUN_DIR", str(tmp_path))
    folder = tmp_path / "a.b.0"
    folder.mkdir()
    return folder


def runs(slot: Path, url: str, **more: Any) -> None:
    (slot / "server.json").write_text(json.dumps({"url": url, "start": "starts/s", "pid": os.getpid(), **more}))


def call(**fields: Any) -> dict[str, Any]:
    return inference(
        {"endpoint": ENDPOINT, "slot": 0, "operation": "/v1/chat/completions", "body": "{}", "timeout_s": 10, **fields}
    )


def test_what_vllm_answers_is_the_result(slot: Path) -> None:
    body = '{"text":"héllo"}'.encode()
    with listening(
        answer_of(body, "200 OK", "Content-Type: application/json", "X-Request-Id: r", "Server: uvicorn")
    ) as it:
        runs(slot, it.url)
        answer = call(
            body='{"messages":"é"}',
            headers=[["Content-Type", "application/json"], ["authorization", "secret"], ["traceparent", "t"]],
        )
    times, host = answer.pop("times"), answer.pop("host")
    assert 0 < times["began"] <= times["sent"] <= times["answered"] <= times["ended"]
    assert host == socket.gethostname()
    assert answer == {
        "status": 200,
        "headers": [["content-type", "application/json"], ["x-request-id", "r"]],
        "body": body.decode(),
    }
    [request] = it.requests
    assert request.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert request.endswith('{"messages":"é"}'.encode())
    assert b"traceparent: t" in request
    assert b"secret" not in request


def test_a_refusal_of_vllm_stays_what_it_is(slot: Path) -> None:
    with listening(answer_of(b'{"error":{"code":400}}', "400 Bad Request")) as it:
        runs(slot, it.url)
        answer = call()
    assert (answer["status"], answer["body"]) == (400, '{"error":{"code":400}}')


def test_a_stream_is_collected_whole(slot: Path) -> None:
    events = ['data: {"i":1}\n\n', 'data: {"i":2}\n\n', "data: [DONE]\n\n"]
    chunks = "".join(f"{len(event):x}\r\n{event}\r\n" for event in events)
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
    with listening(f"{head}{chunks}0\r\n\r\n".encode()) as it:
        runs(slot, it.url)
        assert call()["body"] == "".join(events)


def test_bodies_that_are_no_text_travel_as_base64(slot: Path) -> None:
    with listening(answer_of(b"\xff\x00\xfe")) as it:
        runs(slot, it.url)
        sent = {"body": None, "body_base64": base64.b64encode(b"\x80\x81").decode()}
        answer = call(operation="/v1/audio/transcriptions", **sent)
    assert base64.b64decode(answer["body_base64"]) == b"\xff\x00\xfe"
    assert "body" not in answer
    assert it.requests[0].endswith(b"\r\n\r\n\x80\x81")


def test_vllm_on_a_unix_socket(slot: Path) -> None:
    with listening(answer_of(b"ok"), family=socket.AF_UNIX, path=str(slot / "s")) as it:
        runs(slot, it.url)
        assert call()["body"] == "ok"


def test_where_nobody_told_the_endpoints_port_is_tried(slot: Path) -> None:
    with listening(answer_of(b"ok")) as it:
        assert call(api_port=it.port)["body"] == "ok"
        answer = call(api_port=0)
        assert answer["error"]["kind"] == "vllm_unreachable"
        assert answer["times"].keys() == {"began", "ended"}, "vLLM was not asked"


@pytest.mark.parametrize("missing", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\n"])
def test_an_answer_that_breaks_off_is_no_answer(slot: Path, missing: bytes) -> None:
    with listening(missing) as it:
        runs(slot, it.url)
        answer = call()
    assert answer["error"]["kind"] == "vllm_unreachable"
    assert "broke off" in answer["error"]["message"]


def test_a_chunked_answer_that_breaks_off_is_no_answer(slot: Path) -> None:
    with listening(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n") as it:
        runs(slot, it.url)
        assert call()["error"]["kind"] == "vllm_unreachable"


def test_the_timeout_is_for_the_whole_answer_however_it_drips(slot: Path) -> None:
    left = threading.Event()

    def drip(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        connection.settimeout(0.05)
        for _ in range(999):
            try:
                if not connection.recv(1):
                    left.set()
                    return
            except TimeoutError:
                connection.sendall(b".")

    with listening(drip) as it:
        runs(slot, it.url)
        answer = call(timeout_s=0.4)
        assert answer["error"]["kind"] == "timeout"
        assert left.wait(10), "vLLM must see that nobody listens any more"


def test_a_vllm_that_says_nothing_is_given_up_in_time(slot: Path) -> None:
    def silent(connection: socket.socket, request: bytes) -> None:
        connection.settimeout(5)
        connection.recv(1)

    with listening(silent) as it:
        runs(slot, it.url)
        assert call(timeout_s=0.3)["error"]["kind"] == "timeout"


def test_a_vllm_that_starts_is_waited_for(slot: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    runs(slot, f"http://127.0.0.1:{port}", state="starting")
    refused = call()
    assert refused["error"]["kind"] == "vllm_unreachable"
    assert "does not listen yet" in refused["error"]["message"]

    with listening(answer_of(b"up")) as it:
        timer = threading.Timer(0.3, runs, (slot, it.url))
        timer.start()
        assert call(wait_s=10)["body"] == "up"


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        (b"x" * 7_000_000, True),
        (b"x" * 8_000_000, False),  # base64 makes it 10.8 million
        (b'"' * 5_500_000, False),  # JSON escapes each
        ("漢".encode() * 1_800_000, False),  # three bytes as text, six in JSON
        (b"\xff" * 4_000_000, True),
        (b"\xff" * 6_000_000, False),  # base64 twice
        (b"x" * 11_000_000, False),
    ],
)
def test_what_globus_compute_would_refuse_is_refused_in_words(slot: Path, body: bytes, fits: bool) -> None:
    from globus_compute_sdk.serialize import ComputeSerializer, DillDataBase64, JSONData

    with listening(answer_of(body)) as it:
        runs(slot, it.url)
        answer = call()
    if not fits:
        assert answer["error"]["kind"] == "result_too_large"
        assert "10 MiB" in answer["error"]["message"]
    else:
        for strategy in (DillDataBase64(), JSONData()):
            assert len(ComputeSerializer(strategy_data=strategy).serialize(answer)) < 10 * 1024 * 1024


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "v1/chat"},
        {"operation": "/v1/x y"},
        {"operation": "/v1/x\r\nHost: y"},
        {"operation": "/../etc"},
        {"operation": "/v1/../metrics"},
        {"operation": "http://elsewhere/v1/completions"},
        {"operation": "//elsewhere/v1/completions"},
        {"operation": "/v1/load_lora_adapter"},
        {"operation": "/sleep", "method": "POST"},
        {"operation": "/collective_rpc"},
        {"method": "TRACE"},
        {"body": "a", "body_base64": "YQ=="},
        {"body": None, "body_base64": "é"},
        {"headers": [["x-request-id", "a\r\nb: c"]]},
        {"headers": 3},
        {"timeout_s": "soon"},
        {"wait_s": -1},
        {"endpoint": "clusters/../endpoints/x"},
        {"endpoint": "clusters/a/endpoints/b/../../c"},
        {"slot": "0"},
        {"slot": -1},
        {"control": "explode"},
    ],
)
def test_requests_that_are_none(fields: dict[str, Any]) -> None:
    assert call(**fields)["error"]["kind"] == "bad_request"


@given(
    st.dictionaries(
        st.sampled_from(["endpoint", "slot", "operation", "method", "headers", "body", "body_base64", "timeout_s"])
        | st.just("control"),
        st.none() | st.integers() | st.text() | st.floats() | st.lists(st.text(), max_size=2),
    )
)
def test_no_request_makes_it_fail(request: dict[str, Any]) -> None:
    json.dumps(inference({**request, "wait_s": 0}))


def test_control_tells_the_state(slot: Path) -> None:
    asked = {"endpoint": ENDPOINT, "slot": 0, "control": "state"}
    assert inference(asked)["state"] == "none"
    runs(slot, "http://127.0.0.1:9")
    assert inference(asked)["state"] == "starting"
    with listening(answer_of(b"", "503 Service Unavailable")) as it:
        runs(slot, it.url)
        assert inference(asked)["state"] == "starting"
    with listening(answer_of(b"")) as it:
        runs(slot, it.url)
        assert inference(asked) == {"state": "ready", "detail": f"vLLM at {it.url} is well."}
        assert inference({**asked, "start": "starts/s"})["state"] == "ready"
        assert inference({**asked, "start": "starts/next"})["state"] == "none", "another start's is not one's own"
        runs(slot, it.url, state="stopping")
        assert inference(asked)["state"] == "none"
        ended = subprocess.Popen(["true"])
        ended.wait()
        runs(slot, it.url, pid=ended.pid)
        assert inference(asked)["state"] == "none", "its task has ended without clearing up"


def test_every_operation_that_the_router_carries_is_one_here() -> None:
    carried = {"/v1/chat/completions", "/v1/audio/speech", "/v1/responses/resp_1/cancel", "/v1/models"} | VLLM_EXTRAS
    assert {operation for operation in carried if not module.OPERATION.fullmatch(operation)} == set()
    assert not any(module.OPERATION.fullmatch(operation) for operation in ADMINISTRATIVE)


@pytest.mark.parametrize("above", [False, True])
def test_a_folder_that_somebody_else_prepared_is_not_believed(
    above: bool, slot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's folder differs from a link to one's own by its owner alone, which a test cannot change."""
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-link")
    if above:
        elsewhere.symlink_to(tmp_path)
    else:
        elsewhere.mkdir()
        (elsewhere / slot.name).symlink_to(slot)
    monkeypatch.setenv("WEFT_RUN_DIR", str(elsewhere))
    with listening(answer_of(b"{}")) as it:
        runs(slot, it.url)
        assert call()["error"]["kind"] == "vllm_unreachable"
        assert it.requests == []


def test_control_stops_the_start_that_is_meant(slot: Path) -> None:
    def stop(start: str) -> bool:
        answer = inference({"endpoint": ENDPOINT, "slot": 0, "control": "stop", "start": start})
        assert isinstance(answer["stopped"], bool)
        return bool(answer["stopped"])

    assert not stop("starts/s")
    runs(slot, "http://127.0.0.1:9")
    assert not stop("starts/other")
    assert not (slot / "stop").exists()
    assert stop("starts/s")
    assert (slot / "stop").read_text() == "starts/s"
    assert module.OPERATION.fullmatch("/v1/chat/completions")
