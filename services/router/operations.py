"""Which operations of a model server the mesh carries; pure."""

from __future__ import annotations

import functools
import re
from typing import Final

from services.core.errors import Reason, ServiceError

VLLM_EXTRAS: Final = frozenset(
    {
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
"""vLLM's routes outside `/v1` that name a model and compute something for the caller."""

ADMINISTRATIVE: Final = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
"""Routes under `/v1` that change a server for everybody; no caller reaches them through the mesh."""

LIST_ENDPOINTS: Final = "/resource_server/list-endpoints"
JOBS: Final = "/resource_server/jobs"
MODELS: Final = "/resource_server/models"
WHOAMI: Final = "/resource_server/whoami"
STATUS: Final = "/resource_server/status"

FIRST_STATUS: Final = frozenset({LIST_ENDPOINTS, JOBS, MODELS, WHOAMI, STATUS})
"""FIRST's status routes, which the router answers itself; the cluster of a call stands beside its operation."""
PUBLIC: Final = frozenset({STATUS})
"""Those that FIRST answers without a token."""

_MODELS: Final = "/v1/models"
_UNDER_V1 = re.compile(r"/v1(?:/[A-Za-z0-9_-]{1,64}){1,4}")


def lists_models(operation: str) -> bool:
    """Whether the router answers the operation itself: `/v1/models` and `/v1/models/{model}`."""
    return operation == _MODELS or operation.startswith(_MODELS + "/")


@functools.lru_cache(maxsize=256)
def check_operation(method: str, operation: str) -> None:
    """Raises OPERATION_NOT_FOUND or METHOD_NOT_ALLOWED for what the mesh does not carry.

    The path goes into an HTTP request line at the worker: a pattern, and not a list of bad characters, says what may be
    in it.
    """
    if lists_models(operation):
        if method != "GET":
            raise ServiceError(Reason.METHOD_NOT_ALLOWED, f"{_MODELS} takes GET, not {method[:20]}.")
        return
    if operation in FIRST_STATUS:
        if method != "GET":
            raise ServiceError(Reason.METHOD_NOT_ALLOWED, f"{operation} takes GET, not {method[:20]}.")
        return
    known = operation in VLLM_EXTRAS or (_UNDER_V1.fullmatch(operation) is not None and operation not in ADMINISTRATIVE)
    if not known:
        raise ServiceError(Reason.OPERATION_NOT_FOUND, f"There is no operation {operation[:200]!r}.")
    if method != "POST":
        raise ServiceError(Reason.METHOD_NOT_ALLOWED, f"{operation} takes POST, not {method[:20]}.")
