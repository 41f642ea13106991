"""What only a mesh must decide: whose model a request means, and whether the caller may ask at all."""

import json
from typing import Any

import pytest

from tests.vllm.compare import same
from tests.vllm.exchange import Answer, send
from tests.vllm.mesh import Mesh
from tests.vllm.rows import chat, completions, responses
from tests.vllm.rows.row import CHAT_MODEL, JSON, encode
from tests.vllm.server import VllmServer

UNNAMED: dict[str, dict[str, Any]] = {"missing": {}, "null": {"model": None}, "empty": {"model": ""}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat.BASE,
    "/v1/completions": completions.BASE,
    "/v1/responses": responses.RESPONSES,
    "/tokenize": {"prompt": "a"},
}
MESSAGES = "/v1/messages"


def nameless(path: str, name: str) -> bytes:
    fields = {key: value for key, value in BODIES[path].items() if key != "model"}
    return encode({**fields, **UNNAMED[name]})


def openai_error(answer: Answer) -> dict[str, Any]:
    """The error of an answer, in OpenAI's shape."""
    error: dict[str, Any] = json.loads(answer.body)["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"]
    return error


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", UNNAMED)
def test_no_model_named_means_the_only_one(chat_server: VllmServer, single_mesh: Mesh, path: str, name: str) -> None:
    body = nameless(path, name)
    send(chat_server.url, "POST", path, JSON, body)  # fills the prefix cache, which shows in the usage
    direct = send(chat_server.url, "POST", path, JSON, body)
    same(direct, send(single_mesh.url, "POST", path, {**JSON, **single_mesh.authorization}, body))


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", UNNAMED)
def test_no_model_named_of_several_is_refused(mesh: Mesh, path: str, name: str) -> None:
    answer = send(mesh.url, "POST", path, {**JSON, **mesh.authorization}, nameless(path, name))
    assert answer.status == 400
    error = openai_error(answer)
    assert "model" in error.pop("message")
    # As vLLM refuses a body that lacks a field.
    assert error == {"type": "Bad Request", "param": "body.model", "code": 400}


@pytest.mark.parametrize("path", BODIES)
def test_no_model_named_means_the_only_one_of_the_key(chat_server: VllmServer, mesh: Mesh, path: str) -> None:
    """The mesh serves two models, and the key allows one."""
    made = mesh.weft("keys", "create", "--principal", "users/one", "--allow-model", CHAT_MODEL, "--json")
    key = json.loads(made)["key"]
    body = nameless(path, "missing")
    send(chat_server.url, "POST", path, JSON, body)  # fills the prefix cache, which shows in the usage
    direct = send(chat_server.url, "POST", path, JSON, body)
    same(direct, send(mesh.url, "POST", path, {**JSON, "Authorization": f"Bearer {key}"}, body))


@pytest.mark.parametrize("path", [*BODIES, MESSAGES])
def test_two_models_named_are_refused(mesh: Mesh, path: str) -> None:
    body = b'{"model":"another",' + encode({**BODIES.get(path, responses.MESSAGES), "model": CHAT_MODEL})[1:]
    answer = send(mesh.url, "POST", path, {**JSON, **mesh.authorization}, body)
    assert answer.status == 400
    assert "model" in json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}])
@pytest.mark.parametrize("path", [*BODIES, MESSAGES, "/v1/models"])
def test_callers_need_a_key(mesh: Mesh, path: str, headers: dict[str, str]) -> None:
    method, body = ("GET", None) if path == "/v1/models" else ("POST", encode(BODIES.get(path, responses.MESSAGES)))
    answer = send(mesh.url, method, path, {**JSON, **headers}, body)
    assert answer.status == 401
    if path == MESSAGES:
        told = json.loads(answer.body)
        assert (told["type"], told["error"]["type"]) == ("error", "authentication_error")
    else:
        openai_error(answer)


def test_the_request_id_is_kept(single_mesh: Mesh) -> None:
    """It is returned as a header, and vLLM makes the answer's id of it, so that one can be found by the other."""
    sent = {**JSON, **single_mesh.authorization, "X-Request-Id": "loom-42"}
    answer = send(single_mesh.url, "POST", "/v1/chat/completions", sent, encode(chat.BASE))
    assert answer.headers["x-request-id"] == "loom-42"
    assert json.loads(answer.body)["id"] == "chatcmpl-loom-42"


def test_a_request_id_is_made(single_mesh: Mesh) -> None:
    sent = {**JSON, **single_mesh.authorization}
    ids = {
        send(single_mesh.url, "POST", "/tokenize", sent, encode({"prompt": "a"})).headers["x-request-id"]
        for _ in range(2)
    }
    assert len(ids) == 2
