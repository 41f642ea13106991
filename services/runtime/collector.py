"""Python's garbage collector, set for a server."""

from __future__ import annotations

import gc
from typing import Final

_YOUNG: Final = 50_000


def calm() -> None:
    """Takes what the start has made out of the collector's sight, and has it look at the rest less often.

    With Python's own settings it walks over all modules' objects again and again, at 7 % of a busy facade's time. Calls
    are freed by counting references all the same; the collector is for the rare cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
