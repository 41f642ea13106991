"""Records of what was used: off the path of the calls they go to memory, by a thread to the disk, from there to auth.

`record` costs an append to a queue. What a router that is killed has not yet written is lost: the records of the last
`flush_s` seconds, and never more than wait in memory. An orderly stop loses none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from services.router.usage_metrics import DROPPED

log = logging.getLogger(__name__)

MOST_WAITING: Final = 100_000
"""Records that may wait in memory for the disk. What comes while so many wait is dropped, and counted."""
LONGEST_TEXT: Final = 512
"""Characters of a model's name: it is the caller's own, and may be as long as a body."""


def new_id() -> str:
    """An id for a record: random, 16 bytes in hex."""
    return secrets.token_hex(16)


class CallRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One call, as its caller saw it, without anything that was said. See `weft.usage.v1.CallRecord`.

    Times are in seconds since 1970. `outcome` is `ok`, `cancelled`, or the reason of the error in lower case; `status`
    is the HTTP status that the caller saw, 0 if none.
    """

    id: str = msgspec.field(default_factory=new_id)
    request_id: str = ""
    principal: str
    groups: tuple[str, ...] = ()
    model: str
    route: str = ""
    endpoint: str = ""
    operation: str
    outcome: str
    status: int = 0
    started: float
    first_byte: float | None = None
    ended: float
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False
    streamed: bool = False
    credential_kind: int = 0


class Spool(Protocol):
    """Keeps records on the disk."""

    def append(self, records: list[CallRecord]) -> None:
        """Writes them; when this returns they are on the disk. Raises OSError, and then none of them is."""


class UsageLog:
    """Gathers records, and has a thread write them every `flush_s` seconds, or as soon as `flush_records` wait.

    `written` is called by the thread after each write. A disk that takes nothing is tried again at the next time;
    until then the records wait in memory.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        flush_s: float = 1.0,
        flush_records: int = 1000,
        written: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._flush_s = flush_s
        self._flush_records = flush_records
        self._written = written
        self._waiting: deque[CallRecord] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="usage records", daemon=True)
        self._said = ""

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def record(self, record: CallRecord) -> None:
        """Notes a call that has ended. Never blocks, never raises."""
        waiting = self._waiting
        if len(waiting) >= MOST_WAITING:
            DROPPED.labels("memory").inc()
            return
        if len(record.model) > LONGEST_TEXT:
            record = msgspec.structs.replace(record, model=record.model[:LONGEST_TEXT])
        waiting.append(record)
        if len(waiting) == self._flush_records:
            self._wake.set()

    async def close(self) -> None:
        """Writes what waits, and returns when it is on the disk. Nothing is to be recorded any more."""
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._waiting:
            DROPPED.labels("memory").inc(len(self._waiting))
            log.error("%d usage records are lost: %s", len(self._waiting), self._said or "they were not written")

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._flush_s)
            self._wake.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        # Others append meanwhile, at the other end.
        batch = [self._waiting[place] for place in range(len(self._waiting))]
        if not batch:
            return
        try:
            self._spool.append(batch)
        except OSError as error:
            said = f"{error.filename or 'the spool'} cannot be written: {error.strerror}"
            if said != self._said:
                log.error("usage records wait in memory, as %s; make room", said)
            self._said = said
            return
        for _ in batch:
            self._waiting.popleft()
        self._said = ""
        self._written()
