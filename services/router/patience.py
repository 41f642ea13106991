"""How long a client waits, as far as its request says so; pure.

`Prefer: wait=N` (RFC 7240, 4.3) says it outright, in seconds. The clients of OpenAI and Anthropic tell in a header of
their own after how long a silence they give up and try again, by default 600 s.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from services.core.inference import Headers

_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)
_SILENCE: Final = ("x-stainless-read-timeout", "x-stainless-timeout")
_MARGIN: Final = 1.0
"""Seconds by which an answer is to come before the client gives up."""


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds; infinite where the request says nothing. `silence` is how long the client waits for a byte."""

    wait: float = math.inf
    silence: float = math.inf

    @property
    def whole(self) -> float:
        """How long a call may wait whose client hears nothing meanwhile."""
        return min(self.wait, max(self.silence - _MARGIN, self.silence * 0.9))


def read_patience(headers: Headers) -> Patience:
    """What the headers say."""
    wait = silence = math.inf
    for name, value in headers:
        if name == "prefer" and (match := _WAIT.search(value)) is not None:
            wait = min(wait, float(match[1]))
        elif name in _SILENCE:
            silence = min(silence, _seconds(value))
    return Patience(wait, silence)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf  # not so for what is not a number, too
