"""The RPC edge towards clients."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from weft.inference.v1 import inference_pb2
from weft.session.v1 import frame_pb2

from services.core.answers import stream
from services.core.errors import Reason, ServiceError
from services.core.inference import Head, Inference, Request
from services.core.principal import Role
from services.router.gateway import Gateway
from services.router.models import model_cards
from services.router.permits import Permits
from services.router.roster import Roster
from services.router.rpc_request import Context, headers_from, request_from
from services.router.typed_servicer import TYPED, TypedServicer
from services.rpc.boundary import Access, Open, caller
from services.rpc.channel import credential_of
from services.rpc.frames import add_headers
from services.rpc.limits import MuxLimits
from services.rpc.link import Link
from services.rpc.paging import page
from services.rpc.peer_principals import PeerPrincipals

SERVICE: Final = "weft.inference.v1.InferenceService"

ACCESS: Access = {
    # Each call inside carries its own credential, which the gateway judges.
    f"/{SERVICE}/Multiplex": Open.TO_ALL,
    f"/{SERVICE}/Infer": Open.TO_ALL,
    **{f"/{SERVICE}/{method}": Open.TO_ALL for method in TYPED},
    f"/{SERVICE}/GetModel": frozenset({Role.USER, Role.ADMIN, Role.SERVICE}),
    f"/{SERVICE}/ListModels": frozenset({Role.USER, Role.ADMIN, Role.SERVICE}),
}

_SETTLING: Final = 1.0
"""Seconds that a facade may take to read the ends of its calls."""


class InferenceServicer(TypedServicer):
    """Hands calls to the gateway."""

    def __init__(
        self,
        gateway: Gateway,
        roster: Roster,
        permits: Permits,
        limits: MuxLimits,
        *,
        agent: str,
        peers: PeerPrincipals | None = None,
    ) -> None:
        self._gateway = gateway
        self._roster = roster
        self._permits = permits
        self._limits = limits
        self.max_body = limits.max_body
        self._agent = agent
        self._peers = peers
        self._links: set[Link] = set()

    def drain(self, grace: float) -> None:
        """Tells the facades that this router takes no more calls: theirs wait for its successor."""
        for link in self._links:
            link.mux.drain(grace)

    async def end(self) -> None:
        """Ends every facade's stream, when what is queued is written. It dials again, and finds the successor."""
        links = list(self._links)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLING):
                await asyncio.gather(*(link.settle() for link in links))
        why = ServiceError(Reason.SHUTTING_DOWN, retry_after=1.0)  # to calls on their way here, which were not begun
        for link in links:
            link.mux.tell_why(why)
            link.mux.close(why)

    async def Multiplex(  # type: ignore[override]  # noqa: N802 - it reads and writes by its context
        self, request_iterator: AsyncIterator[inference_pb2.MultiplexRequest], context: Context
    ) -> None:
        """Carries a facade's calls."""
        link = Link(
            agent=self._agent,
            message=inference_pb2.MultiplexResponse,
            events=_Quiet(),
            serves=self._gateway.behind_facades if self._from_facade(context) else self._gateway,
            limits=self._limits,
        )
        self._links.add(link)
        try:
            why = await link.run(context)
        finally:
            self._links.discard(link)
        if why.reason is Reason.PROTOCOL_VIOLATION:
            raise why

    def _from_facade(self, context: Context) -> bool:
        """Whether a stream's calls come from a facade of the mesh, which has decided what of them is traced. Without
        certificates whoever reaches the mesh's own addresses is taken for a part of it.
        """
        return self._peers is None or self._peers.part_of(context) == "facade"

    async def Infer(  # noqa: N802
        self, request: inference_pb2.InferRequest, context: Context
    ) -> AsyncIterator[inference_pb2.InferResponse]:
        """One call, for any gRPC client."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        is_text = False
        gateway = await self.inference_for(context)
        async for part in stream(gateway, _to_request(request, context)):
            if isinstance(part, Head):
                is_text = (part.header("content-type") or "").startswith(("application/json", "text/"))
                yield inference_pb2.InferResponse(head=_to_proto(part))
            elif not is_text:
                yield inference_pb2.InferResponse(data=part)
            elif text := decoder.decode(part):
                yield inference_pb2.InferResponse(text=text)

    async def inference_for(self, context: Context) -> Inference:
        """The gateway, for the holder of a client certificate who sends no credential. Only for calls of their own:
        those that a facade carries are somebody else's.
        """
        if self._peers is None or credential_of(context.invocation_metadata()) is not None:
            return self._gateway
        principal = await self._peers.principal_of(context)
        return self._gateway if principal is None else self._gateway.known_as(principal)

    async def knows(self, context: Context) -> bool:
        """See `TypedServicer.knows`. Raises AUTH_UNAVAILABLE."""
        credential = credential_of(context.invocation_metadata())
        if credential is None:
            return self._peers is not None and await self._peers.principal_of(context) is not None
        try:
            await self._gateway.principal_of(credential)
        except ServiceError as error:
            if error.kind.http not in (401, 403):
                raise
            return False
        return True

    async def ListModels(  # noqa: N802
        self, request: inference_pb2.ListModelsRequest, context: Context
    ) -> inference_pb2.ListModelsResponse:
        """The models that the caller may use."""
        models = [_to_model(card) for card in model_cards(self._roster, self._permits, caller())]
        models, token = page(models, lambda model: model.id, request.page_size, request.page_token)
        return inference_pb2.ListModelsResponse(models=models, next_page_token=token)

    async def GetModel(  # noqa: N802
        self, request: inference_pb2.GetModelRequest, context: Context
    ) -> inference_pb2.GetModelResponse:
        """One of them."""
        for card in model_cards(self._roster, self._permits, caller()):
            if card["id"] == request.id:
                return inference_pb2.GetModelResponse(model=_to_model(card))
        raise ServiceError(Reason.MODEL_NOT_FOUND, f"The model `{request.id}` does not exist.", param="id")


class _Quiet:
    """A facade says nothing outside its calls that the router would act upon."""

    def hello(self, hello: frame_pb2.Hello) -> None:
        """It is there."""

    def drain(self) -> None:
        """It opens no more calls."""

    def report(self, report: frame_pb2.Report) -> None:
        """Only workers report."""

    def stop(self, stop: frame_pb2.Stop) -> None:
        """Only workers are stopped."""


def _to_request(request: inference_pb2.InferRequest, context: Context) -> Request:
    operation = request.operation if request.operation.startswith("/") else f"/v1/{request.operation}"
    return request_from(context, headers_from(context), operation, request.body_json.encode(), request.cluster)


def _to_model(card: dict[str, Any]) -> inference_pb2.Model:
    """A server writes its own cards: what is of another type than it should be stands in `card_json` alone."""
    model = inference_pb2.Model(id=card["id"], card_json=msgspec.json.encode(card).decode())
    created, owner, size = card.get("created"), card.get("owned_by"), card.get("max_model_len")
    if type(created) is int and 0 <= created < 1 << 63:
        model.created = created
    if isinstance(owner, str):
        model.owned_by = owner
    if type(size) is int and 0 <= size < 1 << 63:
        model.max_model_len = size
    return model


def _to_proto(head: Head) -> frame_pb2.Head:
    proto = frame_pb2.Head(status=head.status)
    add_headers(proto, head.headers)
    return proto
