"""Which functions are to be registered, and which registrations are kept. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from services.core.globus import FunctionVersion
from services.globus.sources import Source

DAY: Final = 86_400.0
EXPIRY_DAYS: Final = 90
"""Days without use after which Globus Compute deletes a function of a high-assurance endpoint."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One to make; `why` says what for, in a few words."""

    source: Source
    ha_endpoint_uuid: str
    why: str


def plan(
    source: Source,
    versions: Sequence[FunctionVersion],
    *,
    ha_endpoints: Iterable[str] = (),
    gone: frozenset[str] = frozenset(),
    now: float,
    renew_after: float,
    force: bool = False,
) -> list[Registration]:
    """What is to be registered of one function, of which these versions are known, newest first.

    With `ha_endpoints`, for those alone; without, for everybody, and for the high-assurance endpoints that have had one
    before. `gone` are UUIDs that Globus Compute has no more; `renew_after` is in seconds, and `now` since 1970.
    """
    known = {version.ha_endpoint_uuid for version in versions}
    targets = list(dict.fromkeys(ha_endpoints)) or ["", *sorted(known - {""})]
    found: list[Registration] = []
    for target in targets:
        newest = next((version for version in versions if version.ha_endpoint_uuid == target), None)
        if why := _why(source, newest, gone, now, renew_after, force):
            found.append(Registration(source, target, why))
    return found


def merged(*many: Iterable[FunctionVersion]) -> tuple[FunctionVersion, ...]:
    """All of these, each once, newest first."""
    by_uuid = {version.uuid: version for versions in many for version in versions}
    return tuple(sorted(by_uuid.values(), key=lambda version: (-version.register_time, version.uuid)))


def kept(versions: Iterable[FunctionVersion], keep: int) -> tuple[FunctionVersion, ...]:
    """The newest so many for everybody, and for each high-assurance endpoint: those that an upgrade may still need."""
    seen: Counter[str] = Counter()
    found: list[FunctionVersion] = []
    for version in merged(versions):
        seen[version.ha_endpoint_uuid] += 1
        if seen[version.ha_endpoint_uuid] <= keep:
            found.append(version)
    return tuple(found)


def _why(
    source: Source, newest: FunctionVersion | None, gone: frozenset[str], now: float, renew_after: float, force: bool
) -> str:
    if newest is None:
        return "new"
    if newest.uuid in gone:
        return "Globus Compute had it no more"
    if newest.sha256 != source.sha256:
        return "changed"
    age = now - newest.register_time
    if newest.ha_endpoint_uuid and age >= renew_after:
        return f"renewed after {age / DAY:.0f} days"
    return "as asked" if force else ""
