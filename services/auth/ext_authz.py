"""Envoy's external authorization: may this request pass? (`envoy.service.auth.v3.Authorization`)

For sites that put Envoy in front. It tells who is known and what is coarsely refused, so that strangers are turned away
at the door; it does not see models, and counts nothing against limits. The router decides again in any case. Whatever
goes wrong here is a 503, never a pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc
from google.protobuf.struct_pb2 import Struct
from google.rpc import status_pb2
from weft.third_party.envoy.config.core.v3 import base_pb2
from weft.third_party.envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2, external_auth_pb2_grpc
from weft.third_party.envoy.type.v3 import http_status_pb2

from services.auth.judge import Judge
from services.auth.passage import check_passage, needs_nobody, operation_of
from services.core.errors import Reason, ServiceError
from services.core.http_errors import render
from services.core.principal import Principal, Role
from services.rpc.audit import Auditor, Refusal, clipped, whom
from services.rpc.boundary import Access, Open
from services.rpc.channel import credential_of, parse_bearer
from services.rpc.peer import Trust, own_id

log = logging.getLogger(__name__)

SERVICE: Final = "envoy.service.auth.v3.Authorization"
ACCESS: Access = {
    # Judged here: Envoy's own certificate makes it an asker, and nothing else anywhere.
    f"/{SERVICE}/Check": Open.TO_ALL,
}

IDENTITY_HEADERS: Final = (
    "remote-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-auth-request-user",
    "x-forwarded-access-token",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-user",
    "x-remote-user",
    "x-weft-principal",
)
"""By which other proxies tell who calls. Weft believes none of them, and nobody behind it is to be tempted. Envoy has
written `x-forwarded-client-cert` itself (SANITIZE_SET), and the router needs it.
"""

_UNJUDGED: Final = "It cannot be judged at present whether your request may pass; try again shortly."

Context = grpc.aio.ServicerContext[Any, Any]


class ExtAuthzServicer(external_auth_pb2_grpc.AuthorizationServicer):
    """Answers Envoys: those of `trust.proxies` by their certificates, and whoever has a credential with the role
    service.
    """

    def __init__(self, judge: Judge, trust: Trust, audit: Auditor) -> None:
        self._judge = judge
        self._trust = trust
        self._audit = audit

    async def Check(  # noqa: N802 - Envoy's name
        self, request: external_auth_pb2.CheckRequest, context: Context
    ) -> external_auth_pb2.CheckResponse:
        """Whether the request that `attributes` tell of may pass."""
        await self._check_asker(context)
        http = request.attributes.request.http
        path = http.path.partition("?")[0]
        is_grpc = False
        headers = _headers(http)
        principal: Principal | None = None
        try:
            is_grpc = any(value.startswith("application/grpc") for value in headers.get("content-type", ()))
            if needs_nobody(path):
                return _passed(None)
            principal = await self._identify(headers, request.attributes.source.principal)
            check_passage(principal, http.method, path, grpc=is_grpc)
            return _passed(principal)
        except ServiceError as error:
            if error.kind.http in (401, 403):
                who = whom(error, principal, request.attributes.source.address.socket_address.address)
                request_id = next(iter(headers.get("x-request-id", [])), "")
                self._audit.refuse(Refusal(who, clipped(path), error.reason.name.lower()), clipped(request_id))
            return _denied(error, path, is_grpc)
        except Exception:
            log.exception("an unexpected error kept a request from being judged")
            return _denied(ServiceError(Reason.AUTH_UNAVAILABLE, _UNJUDGED), path, is_grpc)

    async def _check_asker(self, context: Context) -> None:
        credential = credential_of(context.invocation_metadata())
        if credential is None and own_id(context, self._trust.domain) in self._trust.proxies:
            return
        if credential is None:
            message = "An Envoy shows a key with the role service, or a certificate whose id is in 'tls.envoy_ids'."
            raise ServiceError(Reason.CREDENTIAL_MISSING, message)
        asker = await self._judge.authenticate(credential)
        asker.require(Role.SERVICE, action="Check")

    async def _identify(self, headers: Mapping[str, list[str]], peer: str) -> Principal:
        """Who sends the request: by its credential where it has one, else by the certificate that Envoy verified."""
        given, api_keys = headers.get("authorization", []), headers.get("x-api-key", [])
        if len(given or api_keys) > 1:
            raise ServiceError(Reason.HEADER_INVALID, "Two credentials are in one request; send one.")
        credential = parse_bearer(given[0]) if given else next(iter(api_keys), None)
        if credential is not None:
            return (await self._judge.look_up(credential)).principal
        if given or not peer.startswith("spiffe://"):
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        if self._trust.part(peer) is not None:
            message = f"The certificate's SPIFFE id {peer} is that of a part of the mesh; use an id of your own."
            raise ServiceError(Reason.IDENTITY_FORBIDDEN, message)
        return (await self._judge.look_up_peer(peer)).principal


def _headers(http: attribute_context_pb2.AttributeContext.HttpRequest) -> dict[str, list[str]]:
    """The request's headers, names in small letters. Envoy tells them one by one (`encode_raw_headers`), or with those
    of one name joined by commas, which are no part of a credential.
    """
    pairs: Iterable[tuple[str, str]] = http.headers.items()
    if http.header_map.headers:
        raw = http.header_map.headers
        pairs = [(one.key, one.value or one.raw_value.decode("latin-1")) for one in raw]
    headers: dict[str, list[str]] = {}
    for name, value in pairs:
        headers.setdefault(name.lower(), []).append(value)
    return headers


def _passed(principal: Principal | None) -> external_auth_pb2.CheckResponse:
    """Let it pass. Who it is goes into Envoy's metadata, for its access log alone."""
    told = Struct()
    if principal is not None:
        told.update({"principal": principal.name, "kind": principal.identity.kind.name.lower()})
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(),
        ok_response=external_auth_pb2.OkHttpResponse(headers_to_remove=IDENTITY_HEADERS),
        dynamic_metadata=told,
    )


def _denied(error: ServiceError, path: str, is_grpc: bool) -> external_auth_pb2.CheckResponse:
    """Turn it away, with the answer that the facade would give; for gRPC, Envoy makes a status of it, and the body its
    message.
    """
    if error.kind.http == 503 and error.retry_after is None:
        error = ServiceError(error.reason, error.message, retry_after=1.0)
    answer = render(error, operation_of(path))
    headers = [(name.decode(), value.decode("latin-1")) for name, value in answer.headers]
    if is_grpc:
        headers = [(name, value) for name, value in headers if name != "content-type"]
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=error.kind.grpc.value, message=error.message),
        denied_response=external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=http_status_pb2.StatusCode.ValueType(error.kind.http)),
            headers=[_header(name, value) for name, value in headers],
            body=error.message if is_grpc else answer.body.decode(),
        ),
    )


def _header(name: str, value: str) -> base_pb2.HeaderValueOption:
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=name, value=value),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
