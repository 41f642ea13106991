"""What auth says of a credential that is good."""

from __future__ import annotations

from dataclasses import dataclass

from services.auth.keys import Key
from services.core.principal import Principal


@dataclass(frozen=True, slots=True)
class Judged:
    """Whose it is. `expires_at` is in seconds since 1970, None if it never does; `max_age`, in seconds, is how long the
    answer may be kept. `key` is Weft's own, if it is one.
    """

    principal: Principal
    expires_at: float | None
    max_age: float
    key: Key | None = None
