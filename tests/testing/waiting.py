"""A call that waits at a router's roster, in the hands of a test."""

from __future__ import annotations

from collections.abc import Callable

from services.core.tracing import TraceContext


class Waiter:
    """See `services.router.waiting.Waiter`."""

    context: TraceContext | None = None

    def __init__(
        self, wake: Callable[[], None], told: Callable[[], None] = lambda: None, *, caller: str = "users/a"
    ) -> None:
        self.turn = 0
        self.caller = caller
        self.size = 10
        self.next_attempt = wake
        self.state_changed = told
