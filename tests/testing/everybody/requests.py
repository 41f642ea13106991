"""A minimal valid request for every RPC and every HTTP route, so that an allowed call is seen to be allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from weft.auth.v1 import auth_pb2
from weft.inference.v1 import inference_pb2
from weft.launcher.v1 import launcher_pb2
from weft.registry.v1 import registry_pb2
from weft.session.v1 import session_pb2
from weft.third_party.envoy.service.auth.v3 import external_auth_pb2
from weft.usage.v1 import usage_pb2

from tests.testing.mesh import ENDPOINT

KNOWN: Final = {
    name
    for module in (
        health_pb2,
        reflection_pb2,
        auth_pb2,
        inference_pb2,
        launcher_pb2,
        registry_pb2,
        session_pb2,
        external_auth_pb2,
        usage_pb2,
    )
    for name in (service.full_name for service in module.DESCRIPTOR.services_by_name.values())
}
"""Services whose protos the test has."""

CHAT: Final[dict[str, Any]] = {
    "model": "sim-model",
    "messages": [{"role": "user", "content": "a"}],
    "max_tokens": 1,
}
_PROMPT: Final = {"model": "sim-model", "prompt": "a", "max_tokens": 1}
_INPUT: Final = {"model": "sim-model", "input": "a"}
_QUERY: Final = {"model": "sim-model", "query": "a", "documents": ["b"]}
_PAIR: Final = {"model": "sim-model", "text_1": "a", "text_2": "b"}

BODIES: Final[Mapping[str, dict[str, Any]]] = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": CHAT,
    "/v1/completions": _PROMPT,
    "/v1/responses": _INPUT,
    "/v1/rerank": _QUERY,
    "/rerank": _QUERY,
    "/v2/rerank": _QUERY,
    "/v1/score": _PAIR,
    "/score": _PAIR,
    "/tokenize": {"model": "sim-model", "prompt": "a"},
    "/detokenize": {"model": "sim-model", "tokens": []},
}
"""By operation; the others take an input."""


def http_body(path: str) -> bytes:
    """The body of a POST."""
    operation = path[path.find("/v1/") :] if "/v1/" in path else path
    return json.dumps(BODIES.get(operation, _INPUT)).encode()


_ABSENT: Final = "clusters/absent"
_ABSENT_ENDPOINT: Final = f"{_ABSENT}/endpoints/absent"
_TYPED_CHAT: Final = {
    "model": "sim-model",
    "messages": [{"role": "user", "text": "a"}],
    "sampling": {"max_tokens": 1},
}
_TYPED_PROMPT: Final = {"model": "sim-model", "prompts": [{"text": "a"}], "sampling": {"max_tokens": 1}}
_FIELDS: Final[Mapping[str, dict[str, Any]]] = {
    "weft.inference.v1.InferenceService/Chat": _TYPED_CHAT,
    "weft.inference.v1.InferenceService/StreamChat": {"chat": _TYPED_CHAT},
    "weft.inference.v1.InferenceService/Complete": _TYPED_PROMPT,
    "weft.inference.v1.InferenceService/StreamComplete": {"complete": _TYPED_PROMPT},
    "weft.inference.v1.InferenceService/Embed": {"model": "sim-model", "inputs": [{"text": "a"}]},
    "weft.inference.v1.InferenceService/Rerank": _QUERY,
    "weft.inference.v1.InferenceService/Score": {"model": "sim-model", "text_1": ["a"], "text_2": ["b"]},
    "weft.inference.v1.InferenceService/Tokenize": {"model": "sim-model", "prompt": "a"},
    "weft.inference.v1.InferenceService/Detokenize": {"model": "sim-model", "tokens": []},
    "weft.inference.v1.InferenceService/GetModel": {"id": "sim-model"},
    "weft.inference.v1.InferenceService/Infer": {"operation": "chat/completions", "body_json": json.dumps(CHAT)},
    "weft.session.v1.SessionService/Enrol": {"endpoint": ENDPOINT, "instance": "everybody"},
    "weft.session.v1.SessionService/StopSession": {"endpoint": ENDPOINT, "instance": "absent", "why": "a test"},
    "weft.auth.v1.AuthService/IssueEnrolmentToken": {
        "start": "everybody",
        "endpoint": ENDPOINT,
        "lifetime": {"seconds": 60},
    },
    "weft.auth.v1.AuthService/RevokeEnrolment": {"start": "another"},
    "weft.auth.v1.AuthService/CreateKey": {"principal": "users/somebody"},
    "weft.auth.v1.AuthService/GetKey": {"name": "keys/absent"},
    "weft.auth.v1.AuthService/RevokeKey": {"name": "keys/absent"},
    "weft.auth.v1.AuthService/RotateKey": {"name": "keys/absent"},
    "weft.auth.v1.AuthService/DenyPrincipal": {"principal": "users/somebody"},
    "weft.auth.v1.AuthService/AdmitPrincipal": {"principal": "users/nobody"},
    "weft.auth.v1.AuthService/GetPrincipal": {"name": "keys/absent"},
    "weft.registry.v1.RegistryService/CreateCluster": {"cluster": {"name": "clusters/local"}},
    "weft.registry.v1.RegistryService/GetCluster": {"name": "clusters/local"},
    "weft.registry.v1.RegistryService/UpdateCluster": {"cluster": {"name": _ABSENT}},
    "weft.registry.v1.RegistryService/DeleteCluster": {"name": _ABSENT},
    "weft.registry.v1.RegistryService/CreateEndpoint": {"endpoint": {"name": ENDPOINT, "session": {}}},
    "weft.registry.v1.RegistryService/GetEndpoint": {"name": ENDPOINT},
    "weft.registry.v1.RegistryService/ListEndpoints": {"parent": "clusters/local"},
    "weft.registry.v1.RegistryService/UpdateEndpoint": {"endpoint": {"name": _ABSENT_ENDPOINT}},
    "weft.registry.v1.RegistryService/DeleteEndpoint": {"name": _ABSENT_ENDPOINT},
    "weft.registry.v1.RegistryService/DrainEndpoint": {"name": _ABSENT_ENDPOINT},
    "weft.registry.v1.RegistryService/CreateRoute": {"route": {"name": "no name"}},
    "weft.registry.v1.RegistryService/GetRoute": {"name": "routes/absent"},
    "weft.registry.v1.RegistryService/UpdateRoute": {"route": {"name": "routes/absent"}},
    "weft.registry.v1.RegistryService/DeleteRoute": {"name": "routes/absent"},
    "weft.registry.v1.RegistryService/CreateFunction": {"function": {"name": "no name"}},
    "weft.registry.v1.RegistryService/GetFunction": {"name": "functions/probe"},
    "weft.registry.v1.RegistryService/UpdateFunction": {"function": {"name": "functions/probe"}},
    "weft.registry.v1.RegistryService/DeleteFunction": {"name": "functions/probe"},
    "weft.launcher.v1.LauncherService/Want": {"endpoint": ENDPOINT, "router": "everybody"},
    "weft.launcher.v1.LauncherService/StopStart": {"name": "starts/absent"},
    "weft.launcher.v1.LauncherService/GetQueue": {"cluster": _ABSENT},
}
"""What an RPC needs beside an empty request. `Authenticate` and `IssueSessionToken` are about another's credential,
which the test adds.
"""


def rpc_request(method: MethodDescriptor, worker_key: str) -> Any:
    """A request for the RPC."""
    name = f"{method.containing_service.full_name}/{method.name}"
    fields = dict(_FIELDS.get(name, {}))
    if method.input_type.name in ("AuthenticateRequest", "IssueSessionTokenRequest"):
        fields["credential"] = worker_key
        if method.name == "IssueSessionToken":
            fields |= {"endpoint": ENDPOINT, "instance": "everybody"}
    return GetMessageClass(method.input_type)(**fields)


async def served(channel: grpc.aio.Channel) -> dict[str, MethodDescriptor]:
    """Every RPC that a server says that it serves, by `{service}/{method}`."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    async for answer in call:
        services = [service.name for service in answer.list_services_response.service]
        break
    else:
        raise AssertionError("the server tells nothing of what it serves")
    found: dict[str, MethodDescriptor] = {}
    assert set(services) <= KNOWN, "a server serves what the test has no proto of"
    for service in services:
        descriptor: ServiceDescriptor = Default().FindServiceByName(service)
        found |= {f"{service}/{method.name}": method for method in descriptor.methods}
    return found
