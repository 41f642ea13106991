"""The models that a caller may use, and the answer to `GET /v1/models`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from services.core.errors import Reason, ServiceError
from services.core.principal import Principal
from services.router.permits import Permits
from services.router.roster import Roster


def usable_models(roster: Roster, permits: Permits, principal: Principal) -> tuple[str, ...]:
    """The public names that the principal may call, in order."""
    return tuple(model for model in roster.models if permits.sees(principal, model) is not None)


def only_model(roster: Roster, permits: Permits, principal: Principal) -> str:
    """What a request without a model means. Raises MODEL_REQUIRED unless the caller may use exactly one."""
    models = usable_models(roster, permits, principal)
    if len(models) != 1:
        raise ServiceError(
            Reason.MODEL_REQUIRED,
            "The request names no model; set 'model' to one of those that GET /v1/models lists.",
            param="body.model",
        )
    return models[0]


def model_cards(roster: Roster, permits: Permits, principal: Principal) -> Iterator[dict[str, Any]]:
    """An entry, under its public name, for each usable model that a server serves at present, vLLM's own if it gave
    one; and for each that a worker is started for when it is called.
    """
    for model in roster.models:
        permit = permits.sees(principal, model)
        if permit is None:
            continue
        ready = [
            target
            for target in roster.find(model) or ()
            if target.server.ready
            and target.server.serves in ("", principal.name)
            and permit.allows(target.server.endpoint)
        ]
        for target in ready:
            card = target.server.models.get(target.served_model)
            if card:
                yield {**msgspec.json.decode(card), "id": model}
                break
        else:
            startable = roster.launchable(roster.sought(model, "", "", principal.name, permit.endpoints))
            if ready or any(not one.closed for one in startable):
                yield plain_card(model)


def plain_card(model: str) -> dict[str, Any]:
    """An entry in vLLM's shape for a model whose server gives none."""
    return {
        "id": model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "weft",
        "root": model,
        "parent": None,
        "max_model_len": None,
        "permission": [],
    }


def list_models(roster: Roster, permits: Permits, principal: Principal, path: str) -> bytes:
    """The body for `/v1/models` or `/v1/models/{model}`. Raises MODEL_NOT_FOUND."""
    wanted = path.removeprefix("/v1/models").removeprefix("/")
    cards = list(model_cards(roster, permits, principal))
    if not wanted:
        return msgspec.json.encode({"object": "list", "data": cards})
    for card in cards:
        if card["id"] == wanted:
            return msgspec.json.encode(card)
    raise ServiceError(Reason.MODEL_NOT_FOUND, f"The model `{wanted}` does not exist.", param="model")
