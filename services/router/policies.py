"""Which of several targets goes first; pure."""

from __future__ import annotations

from collections.abc import Iterable

from services.router.targets import Target


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
