"""Every kind of caller, every RPC and every HTTP route, and what is to happen; data alone.

`OK` is an answer. Any other word is a reason of docs/errors.md. Where it is no refusal (`RESOURCE_NOT_FOUND`,
`RESOURCE_EXISTS`, …) the call was let in, and failed for what it asked, by a name that does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

OK: Final = "OK"

STRANGERS: Final = {
    "none": "CREDENTIAL_MISSING",
    "bad key": "CREDENTIAL_INVALID",
    "swapped key": "CREDENTIAL_INVALID",
    "expired key": "CREDENTIAL_EXPIRED",
    "revoked key": "CREDENTIAL_INVALID",
    "session token": "CREDENTIAL_INVALID",
    "token of another service": "CREDENTIAL_INVALID",
    "denied": "IDENTITY_FORBIDDEN",
    "other domain": "IDENTITY_FORBIDDEN",
    "stale session": "SESSION_INSUFFICIENT",
    "unlisted service account": "IDENTITY_FORBIDDEN",
}
"""Callers who are unknown, or known and refused, with what they hear wherever somebody has to be known."""

ADMITTED: Final = (
    "user",
    "user by key",
    "other group",
    "service account",
    "worker",
    "worker of another endpoint",
    "service",
    "administrator",
)
"""Callers whom the mesh admits."""

CALLERS: Final = {
    "none": "no credential",
    "bad key": "something that looks like a key and is none",
    "swapped key": "the id of one key with the secret of another",
    "expired key": "a key that was good until a moment ago",
    "revoked key": "a key that an administrator has revoked",
    "session token": "a worker's session token, which is for its session alone",
    "token of another service": "a token of Globus Auth's that was made for another service",
    "denied": "a key of a principal whom an administrator has denied",
    "other domain": "a person whose identity is of a domain that the mesh does not admit",
    "stale session": "a person of the right domain, who logged in too long ago",
    "unlisted service account": "a client of Globus Auth's that the mesh does not list",
    "user": "a person, by a token of Globus Auth's, in the group that may use the model",
    "user by key": "a person by an API key, whom the model's endpoint lists",
    "other group": "a person whom the mesh admits, and who is not in the group that may use the model",
    "service account": "a client of Globus Auth's that the mesh lists, and the model's endpoint too",
    "worker": "a worker's key, for the endpoint that is asked about",
    "worker of another endpoint": "a worker's key, for another endpoint",
    "service": "the key that the parts of the mesh show to each other",
    "administrator": "an administrator's key",
}

_PEOPLE: Final = ("user", "user by key", "other group", "service account", "administrator")
_KNOWN: Final = (*_PEOPLE, "service")
_OPERATORS: Final = ("service", "administrator")
_ADMIN: Final = ("administrator",)
_SERVICE: Final = ("service",)
_EVERYBODY: Final = (*STRANGERS, *ADMITTED)


@dataclass(frozen=True, slots=True)
class Row:
    """Whom an RPC or a route lets in, and what they get; what the admitted others get; and who gets something else."""

    allowed: tuple[str, ...]
    gets: str = OK
    others: str = "ACTION_FORBIDDEN"
    but: Mapping[str, str] = field(default_factory=dict)

    def outcome(self, caller: str) -> str:
        """What a caller is to get."""
        if caller in self.but:
            return self.but[caller]
        if caller in self.allowed:
            return self.gets
        return STRANGERS.get(caller, self.others)


_CALL: Final = Row(("user", "user by key", "service account", "administrator"), others="MODEL_FORBIDDEN")
"""A call to a model. Its endpoint lists a group, and some principals; workers and services have no model in scope."""

TYPED: Final = (
    "Chat",
    "StreamChat",
    "Complete",
    "StreamComplete",
    "Embed",
    "Rerank",
    "Score",
    "Tokenize",
    "Detokenize",
)
"""The RPCs that call a model by typed messages."""

_NOT_A_SESSION_TOKEN: Final = dict.fromkeys(_EVERYBODY, "CREDENTIAL_INVALID") | {"none": "CREDENTIAL_MISSING"}

RPCS: Final[Mapping[str, Row]] = {
    # Every server
    "grpc.health.v1.Health/Check": Row(_EVERYBODY),
    "grpc.health.v1.Health/Watch": Row(_EVERYBODY),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Row(_EVERYBODY),
    # The router
    "weft.inference.v1.InferenceService/Multiplex": Row(_EVERYBODY),
    "weft.inference.v1.InferenceService/Infer": _CALL,
    **{f"weft.inference.v1.InferenceService/{method}": _CALL for method in TYPED},
    "weft.inference.v1.InferenceService/ListModels": Row(_KNOWN),
    "weft.inference.v1.InferenceService/GetModel": Row(
        _CALL.allowed,
        others="MODEL_NOT_FOUND",
        but=dict.fromkeys(("worker", "worker of another endpoint"), "ACTION_FORBIDDEN"),
    ),
    "weft.session.v1.SessionService/Enrol": Row(("worker",), but={"session token": OK}),
    "weft.session.v1.SessionService/RenewToken": Row(
        (),
        others="ARGUMENT_INVALID",  # A key may not leave open for which endpoint.
        but={"session token": OK, **dict.fromkeys(("user", "other group", "service account"), "ACTION_FORBIDDEN")},
    ),
    "weft.session.v1.SessionService/Connect": Row((), but={**_NOT_A_SESSION_TOKEN, "session token": OK}),
    "weft.session.v1.SessionService/ListSessions": Row(_OPERATORS),
    "weft.session.v1.SessionService/StopSession": Row(_OPERATORS, "RESOURCE_NOT_FOUND"),
    # Auth
    "weft.auth.v1.AuthService/Authenticate": Row(_SERVICE),
    "weft.auth.v1.AuthService/IssueSessionToken": Row(_SERVICE),
    "weft.auth.v1.AuthService/IssueEnrolmentToken": Row(_SERVICE),
    "weft.auth.v1.AuthService/RevokeEnrolment": Row(_SERVICE),
    "weft.auth.v1.AuthService/ListVerificationKeys": Row(_SERVICE),
    "weft.auth.v1.AuthService/WatchRevocations": Row(_SERVICE),
    "weft.auth.v1.AuthService/RotateSigningKey": Row(_ADMIN),
    "weft.auth.v1.AuthService/CreateKey": Row(_ADMIN),
    "weft.auth.v1.AuthService/GetKey": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.auth.v1.AuthService/ListKeys": Row(_ADMIN),
    "weft.auth.v1.AuthService/RevokeKey": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.auth.v1.AuthService/RotateKey": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.auth.v1.AuthService/DenyPrincipal": Row(_ADMIN),
    "weft.auth.v1.AuthService/AdmitPrincipal": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.auth.v1.AuthService/ListDenials": Row(_ADMIN),
    "weft.auth.v1.AuthService/GetPolicy": Row(_OPERATORS),
    "weft.auth.v1.AuthService/GetPrincipal": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.usage.v1.UsageService/RecordCalls": Row(_SERVICE),
    "weft.usage.v1.UsageService/SumUsage": Row(_KNOWN),
    "weft.usage.v1.UsageService/ListCalls": Row(_KNOWN),
    "envoy.service.auth.v3.Authorization/Check": Row(_SERVICE),
    # The registry
    "weft.registry.v1.RegistryService/CreateCluster": Row(_ADMIN, "RESOURCE_EXISTS"),
    "weft.registry.v1.RegistryService/GetCluster": Row(_OPERATORS),
    "weft.registry.v1.RegistryService/ListClusters": Row(_OPERATORS),
    "weft.registry.v1.RegistryService/UpdateCluster": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/DeleteCluster": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/CreateEndpoint": Row(_ADMIN, "RESOURCE_EXISTS"),
    "weft.registry.v1.RegistryService/GetEndpoint": Row(_OPERATORS),
    "weft.registry.v1.RegistryService/ListEndpoints": Row(_OPERATORS),
    "weft.registry.v1.RegistryService/UpdateEndpoint": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/DeleteEndpoint": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/DrainEndpoint": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/CreateRoute": Row(_ADMIN, "ARGUMENT_INVALID"),
    "weft.registry.v1.RegistryService/GetRoute": Row(_OPERATORS, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/ListRoutes": Row(_OPERATORS),
    "weft.registry.v1.RegistryService/UpdateRoute": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/DeleteRoute": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/CreateFunction": Row(_ADMIN, "ARGUMENT_INVALID"),
    "weft.registry.v1.RegistryService/GetFunction": Row(_OPERATORS, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/ListFunctions": Row(_OPERATORS),
    "weft.registry.v1.RegistryService/UpdateFunction": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/DeleteFunction": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.registry.v1.RegistryService/Apply": Row(_ADMIN),
    "weft.registry.v1.RegistryService/Watch": Row(_OPERATORS),
    # The launcher
    "weft.launcher.v1.LauncherService/Want": Row(_SERVICE, "RESOURCE_NOT_FOUND"),
    "weft.launcher.v1.LauncherService/Watch": Row(_SERVICE),
    "weft.launcher.v1.LauncherService/ListStarts": Row(_OPERATORS),
    "weft.launcher.v1.LauncherService/StopStart": Row(_ADMIN, "RESOURCE_NOT_FOUND"),
    "weft.launcher.v1.LauncherService/GetQueue": Row(_OPERATORS, "RESOURCE_NOT_FOUND"),
}

_ADMITTED_OK: Final = Row(ADMITTED)
_OPEN: Final = Row(_EVERYBODY)
_UNSERVED: Final = Row(_CALL.allowed, "OPERATION_NOT_FOUND", others="MODEL_FORBIDDEN")
"""Let in; the simulated vLLM of the test does not know the operation."""

_POSTED: Final[Mapping[str, Row]] = {
    "/v1/chat/completions": _CALL,
    "/v1/completions": _CALL,
    "/v1/embeddings": _CALL,
    "/v1/messages": _UNSERVED,
    "/v1/messages/count_tokens": _UNSERVED,
    "/v1/rerank": _CALL,
    "/v1/responses": _UNSERVED,
    "/v1/score": _CALL,
    "/v1/anything/else": _UNSERVED,
}
_OTHERS: Final[Mapping[str, Row]] = {
    "/classify": _UNSERVED,
    "/detokenize": _CALL,
    "/generative_scoring": _UNSERVED,
    "/pooling": _UNSERVED,
    "/rerank": _CALL,
    "/score": _CALL,
    "/tokenize": _CALL,
    "/v2/embed": _UNSERVED,
    "/v2/rerank": _CALL,
}

HTTP: Final[Mapping[str, Row]] = {
    "GET /health": _OPEN,
    "GET /version": _OPEN,
    "GET /resource_server/health": _OPEN,
    "GET /resource_server/health/": _OPEN,
    "GET /resource_server/status": _OPEN,
    "GET /v1/models": _ADMITTED_OK,
    "GET /v1/models/sim-model": Row(_CALL.allowed, others="MODEL_NOT_FOUND"),
    "GET /resource_server/v1/models": _ADMITTED_OK,
    "GET /resource_server/local/vllm/v1/models": _ADMITTED_OK,
    "GET /resource_server/whoami": _ADMITTED_OK,
    "GET /resource_server/list-endpoints": _ADMITTED_OK,
    "GET /resource_server/local/jobs": _ADMITTED_OK,
    "GET /resource_server/local/models": _ADMITTED_OK,
    **{f"POST {path}": row for path, row in (*_POSTED.items(), *_OTHERS.items())},
    **{f"POST /resource_server{path}": row for path, row in _POSTED.items()},
    **{f"POST /resource_server/local/vllm{path}": row for path, row in _POSTED.items()},
}
