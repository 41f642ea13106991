"""Which of several targets goes first, and what a call weighs in that; pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.router.targets import Target

_ANSWER_TOKENS: Final = 256
"""What a call without a bound is reckoned to generate, for comparing loads."""

_MOST_TOKENS: Final = 1 << 20
"""What one call is reckoned to cost at most: a client that asks for 10^18 tokens is not to make a server look busy."""


def reckon(body: bytes, max_tokens: int | None) -> int:
    """The tokens that a call makes its server's burden."""
    # Four bytes a token is the usual reckoning for English; it only has to compare calls with each other.
    return len(body) // 4 + min(max_tokens or _ANSWER_TOKENS, _MOST_TOKENS)


def least_outstanding(targets: Iterable[Target]) -> list[Target]:
    """Targets with the fewest outstanding tokens first, then with the fewest open calls.

    Tokens and not calls alone: one long prompt keeps a GPU busier than many short ones. The counts are this router's
    own; with several routers they are blind to each other's, and vLLM's queue evens that out.
    """
    return sorted(targets, key=_burden)


def _burden(target: Target) -> tuple[int, int, int]:
    server = target.server
    # Of servers that are equally busy, the one that was used longest ago, so that calls spread over idle ones.
    return (server.outstanding_tokens, server.open_calls, server.last_call)
