"""What claims of OpenID Connect mean that Globus Auth and other issuers have in common; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

LEEWAY: Final = 60.0
"""Seconds that the clocks of others may go wrong."""

MFA: Final = (
    "mfa",
    "https://refeds.org/profile/mfa",
    "http://schemas.openid.net/pape/policies/2007/06/multi-factor",
)
"""What says that there was a second factor: the authentication method `mfa` of RFC 8176, REFEDS' profile, by which
research institutions say it, and OpenID's own policy.
"""


def second_factor(acr: Any, amr: Any, accepted: Iterable[str] = MFA) -> bool:
    """Whether a login was made with one, by the claims `acr` and `amr`, of which many providers send neither."""
    said = {acr} if isinstance(acr, str) else set()
    if isinstance(amr, list):
        said.update(method for method in amr if isinstance(method, str))
    return not said.isdisjoint(accepted)


def moment(said: Any) -> float | None:
    """A time in seconds since 1970; None for what is none. JSON's `NaN` is smaller and larger than nothing, so that
    nothing would ever be over.
    """
    if not isinstance(said, int | float) or isinstance(said, bool):
        return None
    try:
        when = float(said)
    except OverflowError:  # JSON's integers have no end
        return None
    return when if math.isfinite(when) else None


def past(said: Any, now: float) -> float | None:
    """The same for something that has happened; None for a time to come, which would never grow old."""
    when = moment(said)
    return when if when is not None and when <= now + LEEWAY else None
