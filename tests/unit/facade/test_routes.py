"""Which request means which call."""

import pytest

from services.core.errors import Reason, ServiceError
from services.facade.routes import POSTED, Redirect, Route, resolve

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("operation", sorted(POSTED))
def test_every_posted_operation_is_known_and_takes_post_alone(operation: str) -> None:
    assert resolve("POST", operation) == Route(operation, "POST")
    for method in ("GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
        with pytest.raises(ServiceError) as refused:
            resolve(method, operation)
        assert (refused.value.reason, refused.value.param) == (Reason.METHOD_NOT_ALLOWED, "POST")
    assert resolve("GET", operation + "/") == Redirect(operation)


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/v1/models", Route("/v1/models", "GET")),
        ("GET", "/v1/models/org/model", Route("/v1/models/org/model", "GET")),
        ("POST", "/v1/audio/speech", Route("/v1/audio/speech", "POST", known=False)),
        ("POST", "/resource_server" + CHAT, Route(CHAT, "POST")),
        ("POST", "/resource_server/sophia/vllm" + CHAT, Route(CHAT, "POST", "sophia", "vllm")),
        ("GET", "/resource_server/sophia/vllm/v1/models", Route("/v1/models", "GET", "sophia", "vllm")),
        ("POST", "/resource_server/a/b/v1/new", Route("/v1/new", "POST", "a", "b", known=False)),
        ("POST", "/resource_server/a/b" + CHAT + "/", Redirect("/resource_server/a/b" + CHAT)),
        ("GET", "/v1/models/", Redirect("/v1/models")),
        ("GET", "/resource_server/list-endpoints", Route("/resource_server/list-endpoints", "GET")),
        ("GET", "/resource_server/whoami/", Route("/resource_server/whoami", "GET")),
        ("GET", "/resource_server/status", Route("/resource_server/status", "GET")),
        ("GET", "/resource_server/sophia/jobs", Route("/resource_server/jobs", "GET", "sophia")),
        ("GET", "/resource_server/v1/models", Route("/v1/models", "GET")),
        ("GET", "/resource_server/sophia/models/", Route("/resource_server/models", "GET", "sophia")),
    ],
)
def test_meanings(method: str, path: str, route: Route | Redirect) -> None:
    assert resolve(method, path) == route


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "//v1/models",
        "/v2/nothing",
        "/tokenizer",
        "/V1/models",
        "/resource_server",
        "/resource_server/v1",
        "/resource_serverv1/models",
        "/resource_server/sophia" + CHAT,
        "/resource_server/Sophia/vllm" + CHAT,
        "/resource_server/../vllm" + CHAT,
        "/resource_server/a/b/c" + CHAT,
        "/resource_server/a/b/tokenize",
        "/resource_server/jobs",
        "/resource_server/models",
        "/resource_server/Sophia/jobs",
        "/resource_server/sophia/jobs//",
        "/resource_server/sophia/whoami",
    ],
)
def test_no_such_route(method: str, path: str) -> None:
    with pytest.raises(ServiceError) as refused:
        resolve(method, path)
    assert refused.value.reason is Reason.OPERATION_NOT_FOUND


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_only_tried_takes_post(method: str) -> None:
    with pytest.raises(ServiceError) as refused:
        resolve(method, "/v1/audio/speech")
    assert refused.value.reason is Reason.OPERATION_NOT_FOUND


def test_status_routes_take_get() -> None:
    with pytest.raises(ServiceError) as refused:
        resolve("POST", "/resource_server/sophia/jobs")
    assert (refused.value.reason, refused.value.param) == (Reason.METHOD_NOT_ALLOWED, "GET")
