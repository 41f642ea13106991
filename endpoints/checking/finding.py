"""What is found wrong with a file of an endpoint directory."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A fault in a file: at a line (0: the whole file) and a field, what it is, and what to do.

    A fault with `warning` lets the endpoint start.
    """

    file: str
    line: int
    field: str
    problem: str
    remedy: str
    warning: bool = False


def nearest(key: str, known: Iterable[str]) -> str:
    """Words that lead from a wrong key to the right one."""
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"the nearest known is {close[0]!r}" if close else f"known are {', '.join(names)}"
