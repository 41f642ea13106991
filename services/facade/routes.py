"""Which HTTP route means which call; pure.

FIRST's URLs, `/resource_server/v1/…` and `/resource_server/{cluster}/{framework}/v1/…`, mean the same calls, federated
or pinned. So are its status routes, `/resource_server/list-endpoints` and the like, which the router answers.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from services.core.errors import Reason, ServiceError

POSTED: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/rerank",
        "/v1/responses",
        "/v1/score",
        "/classify",
        "/detokenize",
        "/generative_scoring",
        "/pooling",
        "/rerank",
        "/score",
        "/tokenize",
        "/v2/embed",
        "/v2/rerank",
    }
)
"""Operations that are called by POST with a JSON body that names a model. Others under `/v1/` are tried at the model's
server.
"""

STATUS: Final = frozenset(
    f"/resource_server/{name}" for name in ("list-endpoints", "whoami", "status", "jobs", "models")
)
"""FIRST's status routes as operations."""
PER_CLUSTER: Final = frozenset({"/resource_server/jobs", "/resource_server/models"})
"""Those of them that are of one cluster: `/resource_server/{cluster}/jobs`."""
OPEN_TO_ALL: Final = frozenset({"/resource_server/status"})
"""What is answered without a key, as FIRST does."""


class Own(enum.Enum):
    """What the facade answers by itself, to everybody."""

    HEALTH = enum.auto()
    FIRST_HEALTH = enum.auto()
    VERSION = enum.auto()


OWN: Final = {
    "/health": Own.HEALTH,
    "/resource_server/health": Own.FIRST_HEALTH,
    "/resource_server/health/": Own.FIRST_HEALTH,
    "/version": Own.VERSION,
}

_MODELS = "/v1/models"
_FIRST_STATUS = re.compile(
    r"(/resource_server)(?:/(?!v1/)([a-z0-9][a-z0-9._-]{0,62})(/jobs|/models)|(/list-endpoints|/whoami|/status))/?"
)
_FIRST = re.compile(r"/resource_server(?:/([a-z0-9][a-z0-9._-]{0,62})/([a-z0-9][a-z0-9._-]{0,62}))?(/v1/.*)")


@dataclass(frozen=True, slots=True)
class Route:
    """A call: the operation, pinned to a cluster and framework if these are not empty. `known` is false for what is
    only tried.
    """

    operation: str
    method: str
    cluster: str = ""
    framework: str = ""
    known: bool = True


@dataclass(frozen=True, slots=True)
class Redirect:
    """What vLLM says to a trailing slash."""

    path: str


def resolve(method: str, path: str) -> Route | Redirect:
    """The call that a request means. Raises OPERATION_NOT_FOUND or METHOD_NOT_ALLOWED, with the right method as
    `param`.
    """
    cluster = framework = ""
    operation = path
    if path.startswith("/resource_server"):
        if status := _FIRST_STATUS.fullmatch(path):
            return Route(status[1] + (status[3] or status[4]), only("GET", method), status[2] or "")
        match = _FIRST.fullmatch(path)
        if match is None:
            raise ServiceError(Reason.OPERATION_NOT_FOUND)
        cluster, framework, operation = match[1] or "", match[2] or "", match[3]
    if operation in POSTED:
        return Route(operation, only("POST", method), cluster, framework)
    if operation == _MODELS or (operation.startswith(_MODELS + "/") and operation != _MODELS + "/"):
        return Route(operation, only("GET", method), cluster, framework)
    if operation.endswith("/") and (operation[:-1] in POSTED or operation[:-1] == _MODELS):
        return Redirect(path[:-1])
    if operation.startswith("/v1/") and method == "POST":
        return Route(operation, method, cluster, framework, known=False)
    raise ServiceError(Reason.OPERATION_NOT_FOUND)


def only(allowed: str, method: str) -> str:
    """The method, which is the allowed one. Raises METHOD_NOT_ALLOWED otherwise."""
    if method != allowed:
        raise ServiceError(Reason.METHOD_NOT_ALLOWED, param=allowed)
    return method
