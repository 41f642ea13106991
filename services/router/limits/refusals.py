"""The errors of calls that are not admitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from services.core.errors import QuotaViolation, Reason, ServiceError
from services.core.inference import Headers
from services.router.limits.claims import Kind, Rule


class Shortage(NamedTuple):
    """A rule of which a call needs more than is left for it; `wait` is an estimate, in seconds."""

    subject: str
    rule: Rule
    amount: int
    room: int
    wait: float


_REASONS: Final = {
    Kind.REQUESTS: Reason.REQUESTS_EXHAUSTED,
    Kind.CALLS: Reason.CALLS_EXHAUSTED,
    Kind.MINUTE: Reason.TOKENS_EXHAUSTED,
    Kind.DAY: Reason.TOKENS_EXHAUSTED,
}


def refusal(shortages: Sequence[Shortage], headers: Headers = ()) -> ServiceError:
    """Why a call is not admitted, told of the rule that it has to wait for longest."""
    worst = max(shortages, key=lambda shortage: shortage.wait)
    retry_after = max(worst.wait, 0.001)
    who = _who(worst.subject)
    if worst.rule.kind is Kind.CALLS:
        message = f"{who} may have {_amount(worst.rule)}; try again when one has ended."
    elif worst.rule.kind is Kind.REQUESTS:
        message = f"{who} may begin {_amount(worst.rule)}; try again in {_seconds(retry_after)}."
    else:
        message = (
            f"{who} may use {_amount(worst.rule)}, of which {worst.room} are left, and this call may use up to "
            f"{worst.amount}; try again in {_seconds(retry_after)}."
        )
    violations = tuple(QuotaViolation(short.subject, _amount(short.rule)) for short in shortages)
    reason = _REASONS[worst.rule.kind]
    return ServiceError(reason, message, retry_after=retry_after, violations=violations, headers=headers)


def above_limit(subject: str, rule: Rule, tokens: int) -> ServiceError:
    """A call that its limits never allow, however long it waits."""
    return ServiceError(
        Reason.TOKENS_ABOVE_LIMIT,
        f"This call may use up to {tokens} tokens, and {_who(subject)} may use {rule.limit} {_per(rule)}; "
        f"give a 'max_tokens' that is lower by {tokens - rule.limit}, or shorten the prompt.",
        param="max_tokens",
        violations=(QuotaViolation(subject, _amount(rule)),),
    )


def _who(subject: str) -> str:
    """`routes/llama users/alice` is what alice may use of the route."""
    what, _, who = subject.partition(" ")
    return f"'{who}' at '{what}'" if who else f"'{what}'"


def _amount(rule: Rule) -> str:
    if rule.kind is Kind.REQUESTS:
        calls = f"{rule.limit} call{'s' if rule.limit > 1 else ''}"
        return f"{calls} a second" if rule.window == 1 else f"{calls} in {rule.window:g} s"
    if rule.kind is Kind.CALLS:
        return f"{rule.limit} call{'s' if rule.limit > 1 else ''} open at once"
    return f"{rule.limit} tokens {_per(rule)}"


def _per(rule: Rule) -> str:
    return "per minute" if rule.kind is Kind.MINUTE else "per day"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 10 else f"{math.ceil(seconds)} s"
