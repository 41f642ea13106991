"""The spans of a call that has ended in the router, from what it noted (`call_trace`) and what its bill says."""

from __future__ import annotations

import logging
import time
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from services.core import gen_ai, weft_attributes
from services.core.errors import ServiceError
from services.core.gen_ai import operation_name
from services.core.principal import Principal
from services.core.tracing import AttributeValue, Event, Kind, Span, log_fields
from services.router.bill import Bill
from services.router.call_content import input_messages, output_messages
from services.router.call_trace import WAIT, CallTrace, Step
from services.router.outward import VLLM
from services.router.targets import HTTP
from services.router.usage_log import CallRecord

log = logging.getLogger(__name__)

SERVICE: Final = "router"
CANCELLED: Final = "cancelled"
OK: Final = "ok"

_LONGEST: Final = 200
"""Characters of names that are the caller's own."""
_LARGEST_READ: Final = 256 * 1024
"""Bytes of a body that is read once more, for what only spans tell."""

_Attributes = dict[str, AttributeValue]


class _Asked(msgspec.Struct, gc=False):
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    temperature: Any = None
    top_p: Any = None


_asked = msgspec.json.Decoder(_Asked)


def finish(notes: CallTrace, error: ServiceError | None, principal: Principal | None, bill: Bill | None) -> None:
    """The call has ended, which its bill tells of, if it had one: makes and hands on its spans, if they are kept.
    Without an error and a bill its caller has left.
    """
    record = None if bill is None else bill.record
    if error is None and not notes.noting and (record is None or record.status < 500):
        return  # as most do
    at_fault = notes.retried or (error is not None and error.kind.http >= 500)
    at_fault = at_fault or (record is not None and record.status >= 500)
    if not notes.tracer.keeps(notes.context, failed=at_fault, refused=error is not None):
        return
    try:
        _end(notes, error, record)
        notes.tracer.record(_of_call(notes, error, principal, bill, time.time_ns()))
        for number, step in enumerate(notes.steps):
            notes.tracer.record(_of_step(notes, step, number))
    except Exception:  # the call's caller is yet to hear of its end
        log.exception("the spans of a call could not be made", extra=log_fields(notes.context))


def _end(notes: CallTrace, error: ServiceError | None, record: CallRecord | None) -> None:
    """Ends the step that was under way, which shares the call's fate."""
    answered = record is not None and record.first_byte is not None
    status = record.status if record is not None and answered else 0
    notes.done("" if error is None else error.reason.name.lower(), status)


def _of_call(
    notes: CallTrace, error: ServiceError | None, principal: Principal | None, bill: Bill | None, now: int
) -> Span:
    request, record = notes.request, None if bill is None else bill.record
    operation, model = operation_name(request.operation)[:_LONGEST], "" if bill is None else bill.model[:_LONGEST]
    status = record.status if record is not None else 0 if error is None else error.kind.http
    outcome = record.outcome if record is not None else CANCELLED if error is None else error.reason.name.lower()
    attributes: _Attributes = {
        gen_ai.OPERATION: operation,
        gen_ai.PROVIDER: _provider(notes.steps),
        weft_attributes.REQUEST_ID: (request.header("x-request-id") or "")[:_LONGEST],
        weft_attributes.OUTCOME: outcome,
        weft_attributes.ATTEMPTS: sum(step.target is not None for step in notes.steps),
    }
    wrong = "" if outcome in (OK, CANCELLED) else outcome
    if not wrong and status >= 500:
        wrong = str(status)
    told: _Attributes = {
        gen_ai.REQUEST_MODEL: model,
        weft_attributes.PRINCIPAL: "" if principal is None else principal.name,
        weft_attributes.CLUSTER: request.cluster[:_LONGEST],
        weft_attributes.HTTP_STATUS: status,
        weft_attributes.ERROR_TYPE: wrong,
    }
    attributes |= {name: value for name, value in told.items() if value}
    if record is not None:
        attributes |= _of_record(record) | _of_body(request.body)
        if notes.tracer.content:
            attributes |= _content(notes)
    return Span(
        context=notes.context,
        parent_id="" if notes.parent is None else notes.parent.span_id,
        name=f"{operation} {model}" if model else operation,
        service=SERVICE,
        kind=Kind.SERVER,
        start_ns=notes.started,
        end_ns=now,
        attributes=attributes,
        events=_events(notes, record, now),
        # As for HTTP: what is the caller's own doing is no error of a server's span.
        error="" if 400 <= (status if error is None else error.kind.http) < 500 else wrong,
    )


def _of_record(record: CallRecord) -> _Attributes:
    told: _Attributes = {gen_ai.REQUEST_STREAM: record.streamed}
    if record.route:
        told[weft_attributes.ROUTE] = record.route
    if record.endpoint:
        told[weft_attributes.ENDPOINT] = record.endpoint
    if record.first_byte is not None:
        told[gen_ai.RESPONSE_TIME_TO_FIRST_CHUNK] = max(0.0, record.first_byte - record.started)
    if record.input_tokens or record.output_tokens:
        told[gen_ai.USAGE_INPUT_TOKENS] = record.input_tokens
        told[gen_ai.USAGE_OUTPUT_TOKENS] = record.output_tokens
        told[gen_ai.USAGE_CACHED_TOKENS] = record.cached_tokens
        if record.estimated:
            told[weft_attributes.USAGE_ESTIMATED] = True
    return told


def _of_body(body: bytes) -> _Attributes:
    """What a body asks for that routing does not read. Values that are no numbers are vLLM's to refuse."""
    if len(body) > _LARGEST_READ:
        return {}
    try:
        asked = _asked.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    bounds = (asked.max_tokens, asked.max_completion_tokens, asked.max_output_tokens)
    told: _Attributes = {}
    if (bound := next((one for one in bounds if type(one) is int and 0 < one < 1 << 63), 0)) > 0:
        told[gen_ai.REQUEST_MAX_TOKENS] = bound
    for name, value in ((gen_ai.REQUEST_TEMPERATURE, asked.temperature), (gen_ai.REQUEST_TOP_P, asked.top_p)):
        if type(value) in (int, float) and abs(value) < 1e6:
            told[name] = float(value)
    return told


def _content(notes: CallTrace) -> _Attributes:
    asked = input_messages(notes.request.body)
    answered = "" if notes.answer is None else output_messages(notes.answer.beginning)
    told = {gen_ai.INPUT_MESSAGES: asked, gen_ai.OUTPUT_MESSAGES: answered}
    return {name: text for name, text in told.items() if text}


def _provider(steps: list[Step]) -> str:
    """Whose the server is that was asked last."""
    framework = next((step.target.framework for step in reversed(steps) if step.target is not None), "")
    return gen_ai.VLLM if framework in VLLM else framework


def _events(notes: CallTrace, record: CallRecord | None, now: int) -> tuple[Event, ...]:
    happened = [
        Event(name, at)
        for name, at in (
            ("authenticated", notes.authenticated),
            ("authorised", notes.authorised),
            ("admitted", notes.admitted),
        )
        if at
    ]
    happened += [
        Event("planned", step.started, {weft_attributes.CANDIDATES: step.candidates})
        for step in notes.steps
        if step.target is not None or step.name == WAIT
    ]
    if record is not None and record.first_byte is not None:
        happened.append(Event("gen_ai.first_token", round(record.first_byte * 1e9)))
    happened.sort(key=lambda event: event.time_ns)
    return (*happened, Event("end", now))


def _of_step(notes: CallTrace, step: Step, number: int) -> Span:
    name, attributes = step.name, _Attributes()
    if step.target is not None:
        server = step.target.server
        name = f"dispatch {server.endpoint}"
        attributes[weft_attributes.ENDPOINT] = server.endpoint
        attributes[weft_attributes.INSTANCE] = _host(server.instance) if server.carrier == HTTP else server.instance
        attributes[weft_attributes.BACKEND] = server.carrier
        attributes[weft_attributes.ATTEMPT] = 1 + sum(one.target is not None for one in notes.steps[:number])
    if step.why:
        attributes[weft_attributes.WAIT_REASON] = step.why
    if step.status:
        attributes[weft_attributes.HTTP_STATUS] = step.status
    error = step.error or (str(step.status) if step.status >= 500 else "")
    if error:
        attributes[weft_attributes.ERROR_TYPE] = error
    return Span(
        context=step.context,
        parent_id=notes.context.span_id,
        name=name,
        service=SERVICE,
        kind=Kind.INTERNAL if step.target is None else Kind.CLIENT,
        start_ns=step.started,
        end_ns=step.ended,
        attributes=attributes,
        events=tuple(Event("state", at, {weft_attributes.STATE: word}) for at, word in step.states),
        error=error,
    )


def _host(url: str) -> str:
    """Of an endpoint's URL, what cannot be a secret."""
    return urlsplit(url).netloc.rpartition("@")[2]
