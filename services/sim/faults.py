"""Faults on demand: what the next calls suffer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from http import HTTPStatus

import msgspec

_ERROR_STATUSES = frozenset(status.value for status in HTTPStatus if status >= 400)


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to fail, for the next `times` calls. Exactly one of the other fields is set."""

    #: The connection closes, with the answer unfinished, once so many tokens are generated.
    die_after_tokens: int | None = None
    #: Nothing more is generated after so many tokens; the call holds its slot until its client leaves.
    stall_after_tokens: int | None = None
    #: A stream gets vLLM's error event, then `[DONE]`, after so many tokens; any other call a 500.
    error_after_tokens: int | None = None
    #: The call is answered with this HTTP status and vLLM's error body.
    status: int | None = None
    #: The connection is reset before anything is answered.
    reset_before_head: bool = False
    #: `/health` and `/ping` answer 503, as vLLM's does when its engine is dead.
    refuse_health: bool = False
    times: int = 1

    def __post_init__(self) -> None:
        kinds = ("die_after_tokens", "stall_after_tokens", "error_after_tokens", "status")
        chosen = [kind for kind in kinds if getattr(self, kind) is not None]
        chosen += [kind for kind in ("reset_before_head", "refuse_health") if getattr(self, kind)]
        if len(chosen) != 1:
            named = ", ".join((*kinds, "reset_before_head", "refuse_health"))
            raise ValueError(f"a fault sets exactly one of {named}; this one sets {len(chosen)}")
        if self.times < 1 or any((getattr(self, kind) or 0) < 0 for kind in kinds):
            raise ValueError("times must be 1 or more, token counts and the status must not be negative")
        if self.status is not None and self.status not in _ERROR_STATUSES:
            raise ValueError(f"status must be an HTTP status that reports an error, got {self.status}")

    @property
    def cut(self) -> int | None:
        """The number of tokens after which the fault strikes; None if it does not wait for tokens."""
        for tokens in (self.die_after_tokens, self.stall_after_tokens, self.error_after_tokens):
            if tokens is not None:
                return tokens
        return None


class Faults:
    """The faults that wait for a call, in the order in which they were asked for."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._calls: deque[Fault] = deque()
        self._health: deque[Fault] = deque()
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        queue = self._health if fault.refuse_health else self._calls
        queue.extend([fault] * fault.times)

    def clear(self) -> None:
        self._calls.clear()
        self._health.clear()

    def for_call(self) -> Fault | None:
        """Takes the fault of the call that arrives now, if any waits."""
        return self._calls.popleft() if self._calls else None

    def for_health(self) -> Fault | None:
        """Takes the fault of the health check that arrives now, if any waits."""
        return self._health.popleft() if self._health else None

    @property
    def waiting(self) -> int:
        """The calls and health checks that are still to fail."""
        return len(self._calls) + len(self._health)
