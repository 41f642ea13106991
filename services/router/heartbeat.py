"""What a streamed call hears before its first byte: comments in the stream that tell how things stand; pure.

The first one commits the status 200. A server's answer that is no event stream is then a misfit: see `misfit.py`.
"""

from __future__ import annotations

from typing import Final

from services.core.inference import Head
from services.router.cold import ColdEndpoint, Outlook

STREAMED: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"})
"""The operations whose stream is one of server-sent events."""

EVENT_STREAM: Final = Head(200, (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")))


def comment(word: str, detail: str) -> bytes:
    """A comment, which clients of event streams pass over (https://html.spec.whatwg.org/multipage/server-sent-
    events.html).
    """
    return f": weft {word} — {' '.join(detail.split())}\n\n".encode("utf-8", "replace")


def waiting_comment(outlook: Outlook) -> bytes:
    """For a call that no server has."""
    return comment(outlook.word, outlook.detail)


def working_comment(known: ColdEndpoint | None) -> bytes:
    """For a call that a server has; `known` is what the launcher says of its endpoint."""
    if known is not None and known.tasks:
        return comment("working", "its answer travels as a task, and comes as a whole")
    return comment("working", "the model server has the call, and has not begun its answer")


def is_event_stream(head: Head) -> bool:
    """Whether an answer can go on where comments have begun."""
    return head.status == 200 and (head.header("content-type") or "").startswith("text/event-stream")
