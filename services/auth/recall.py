"""Remembers whose a token is, for as long as that may be believed."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from services.auth.calls import BUSY
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal

_Value = TypeVar("_Value")

_REFUSALS: Final = frozenset(
    {
        Reason.CREDENTIAL_INVALID,
        Reason.CREDENTIAL_EXPIRED,
        Reason.IDENTITY_FORBIDDEN,
        Reason.SESSION_INSUFFICIENT,
    }
)
"""What the issuer said of the token. Anything else is an outage, which says nothing of it."""


class Identified(NamedTuple):
    """Whose a token is, before any policy is asked; it is to be believed until `until`, in seconds since 1970."""

    principal: Principal
    until: float


@dataclass(frozen=True, slots=True)
class Memory:
    """How long, in seconds, and how much is remembered. The times are FIRST's."""

    kept_for: float = 600.0
    refused_for: float = 60.0
    capacity: int = 10_000
    refused_capacity: int = 10_000
    waiting: int = 256


class Recall:
    """Asks once, however many wait for the answer, and remembers it.

    Refusals are remembered apart, so that a flood of wrong tokens pushes out no good one, and shortly. Outages are not
    remembered: they raise AUTH_UNAVAILABLE for callers who are not known, and those who are stay known until their
    time ends. Tokens are kept as hashes only.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[Identified]],
        memory: Memory = Memory(),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ask = ask
        self._memory = memory
        self._clock = clock
        self._known: OrderedDict[bytes, Identified] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[ServiceError, float]] = OrderedDict()
        self._questions: dict[bytes, asyncio.Task[Identified]] = {}
        self.hits = 0
        self.misses = 0
        """How often it remembered, and how often somebody had to wait for the issuer."""

    async def look_up(self, token: str) -> Identified:
        """Whose it is. Raises what asking raised, or AUTH_UNAVAILABLE."""
        digest = hashlib.sha256(token.encode()).digest()
        now = self._clock()
        if (known := self._known.get(digest)) is not None:
            if now < known.until:
                self._known.move_to_end(digest)
                self.hits += 1
                return known
            del self._known[digest]
        if (refused := self._refused.get(digest)) is not None:
            if now < refused[1]:
                self.hits += 1
                raise ServiceError(refused[0].reason, refused[0].message)
            del self._refused[digest]
        self.misses += 1
        question = self._questions.get(digest)
        if question is None:
            if len(self._questions) >= self._memory.waiting:
                raise ServiceError(Reason.AUTH_UNAVAILABLE, BUSY, retry_after=1.0)
            question = asyncio.get_running_loop().create_task(self._learn(digest, token))
            self._questions[digest] = question
            question.add_done_callback(lambda done: self._answered(digest, done))
        # Shielded: the question is shared, and one caller who leaves must not end it for the others.
        return await asyncio.shield(question)

    async def close(self) -> None:
        """Ends the questions that are under way."""
        questions = list(self._questions.values())
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)

    async def _learn(self, digest: bytes, token: str) -> Identified:
        # Counted from the question: what happened after it was asked, the answer does not know.
        asked_at = self._clock()
        try:
            answer = await self._ask(token)
        except ServiceError as error:
            if error.reason in _REFUSALS:
                lasts = min(self._memory.refused_for, error.retry_after or self._memory.refused_for)
                _remember(self._refused, digest, (error, asked_at + lasts), self._memory.refused_capacity)
            raise
        known = Identified(answer.principal, min(answer.until, asked_at + self._memory.kept_for))
        _remember(self._known, digest, known, self._memory.capacity)
        return known

    def _answered(self, digest: bytes, question: asyncio.Task[Identified]) -> None:
        del self._questions[digest]
        if not question.cancelled():
            question.exception()  # Everybody who waited for it may have left.


def _remember(memory: OrderedDict[bytes, _Value], digest: bytes, value: _Value, capacity: int) -> None:
    memory[digest] = value
    memory.move_to_end(digest)
    if len(memory) > capacity:
        memory.popitem(last=False)
