"""The request that a server gets: the caller's, with single values of its body spliced; pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET

from services.core.deadlines import Watchdog
from services.core.inference import Request
from services.core.trace_context import TraceContext
from services.router.body import NONE, Fields, Wanted
from services.router.splice import Edit, splice
from services.router.targets import Target

COUNTED: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
"""The operations whose streams tell their usage only to who asks; those of the others always do."""

VLLM: Final = frozenset({"", "vllm"})
"""Frameworks whose streams are known well enough to take out again what has been added. Another provider may refuse
`stream_options`, or mark every event by them: its streams are as it makes them, and have a usage if the caller asks.
"""

_TRUE: Final = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE: Final = frozenset({"false", "f", "no", "n", "off", "0"})
"""What vLLM's validation takes for a boolean, in any case."""


def outward(
    request: Request,
    wanted: Wanted,
    target: Target,
    edits: Iterable[Edit],
    watchdog: Watchdog,
    place: TraceContext | None = None,
) -> tuple[Request, bool]:
    """The request for a target, with these edits of its body, and whether usage is asked for that the caller has not
    asked for. It has as much time as the caller's has left. `place` is the attempt's in the
    call's trace, if that is traced.

    Raises BODY_TOO_DEEP.
    """
    body, adds_usage = outward_body(request, wanted, target, edits)
    timeout, first_byte = max(0.1, watchdog.remaining), max(0.1, watchdog.first_byte_remaining)
    sent = msgspec.structs.replace(
        request, body=body, timeout=timeout, first_byte_timeout=first_byte, cluster="", framework="", trace=place
    )
    return sent, adds_usage


def outward_body(request: Request, wanted: Wanted, target: Target, edits: Iterable[Edit]) -> tuple[bytes, bool]:
    """The body of it; as `outward`."""
    changes = list(edits)
    adds: tuple[Edit, ...] = ()
    if wanted.stream and request.operation in COUNTED and target.framework in VLLM:
        adds = ask_for_usage(wanted.fields)
        changes += adds
    if target.served_model != (wanted.model or target.served_model):
        there = wanted.fields.model is not UNSET
        changes.append(Edit("model", json.dumps(target.served_model), there=there))
    return splice(request.body, changes, plain=wanted.plain) if changes else request.body, bool(adds)


def ask_for_usage(fields: Fields) -> tuple[Edit, ...]:
    """What makes a stream tell its usage at its end alone; nothing where the caller has asked for it, or has written
    what vLLM refuses.
    """
    if fields.messages is fields.prompt is fields.prompt_embeds is NONE:
        return ()  # vLLM's refusal tells how many keys the body had
    options = fields.stream_options
    if options is UNSET or options is None:
        return (Edit("stream_options", '{"include_usage": true}', there=options is not UNSET),)
    if not isinstance(options, dict) or _boolean(options.get("include_usage")) is not False:
        return ()
    asked = Edit("include_usage", "true", there="include_usage" in options, inside="stream_options")
    # Without `include_usage` it means nothing; with it, every event would bear a usage.
    if _boolean(options.get("continuous_usage_stats")):
        return (asked, Edit("continuous_usage_stats", "false", there=True, inside="stream_options"))
    return (asked,)


def _boolean(value: object) -> bool | None:
    """What vLLM makes of a value where it expects a boolean; None if it refuses it."""
    if value is None:
        return False
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).lower()
    return True if text in _TRUE else False if text in _FALSE else None
