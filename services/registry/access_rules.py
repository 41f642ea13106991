"""What the registry asks of access policies and limits. What could never hold, or not be counted, is refused here
rather than when somebody calls.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Final

from weft.registry.v1 import resources_pb2

from services.registry.rules import MAX_WORD, bounded, check_each, check_word, refuse

MAX_COUNT: Final = 2**53
"""Tokens; the store that counts them has no larger whole numbers."""
MAX_RATE: Final = 1e6
"""Calls a second."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PROVIDER = re.compile(rf"{_UUID.pattern}|https?://[^\s/]+(?:/\S*)?")
_PRINCIPAL = re.compile(r"(?:users/|services/|\*)[A-Za-z0-9._@+/*-]*")
_TOKENS: Final = ("tokens_per_minute", "tokens_per_day")
_RATES: Final = ("requests_per_second", "requests_per_second_per_user")


def check_access(access: resources_pb2.AccessPolicy, param: str) -> None:
    """Who may use a resource."""
    _check_all(access.allowed_globus_groups, f"{param}.allowed_globus_groups", _check_name)
    rule = "a domain, 'anl.gov', or '*.anl.gov' for all below it; one that is not ASCII in its form 'xn--…'"
    check_each(access.allowed_domains, _DOMAIN, rule, f"{param}.allowed_domains")
    rule = "an identity provider: a UUID in small letters, or the URL of an issuer"
    check_each(access.allowed_identity_providers, _PROVIDER, rule, f"{param}.allowed_identity_providers")
    rule = "a principal, 'users/alice' or 'services/portal', in which '*' stands for any text"
    check_each(access.allowed_principals, _PRINCIPAL, rule, f"{param}.allowed_principals")
    _check_all(access.authentication_policies, f"{param}.authentication_policies", _check_name)
    if access.HasField("max_session_age") and access.max_session_age.ToNanoseconds() <= 0:
        refuse(f"{param}.max_session_age", "must be more than 0 s; leave it out to ask for no age")


def check_limits(limits: resources_pb2.Limits, param: str) -> None:
    """How much of a resource may be used."""
    for field in _RATES:
        rate = getattr(limits, field)
        if not (math.isfinite(rate) and 0 <= rate <= MAX_RATE):
            refuse(f"{param}.{field}", f"must be a number of calls from 0, which means no limit, to {MAX_RATE:.0f}")
    for field in (*_TOKENS, *(f"{name}_per_user" for name in _TOKENS)):
        if getattr(limits, field) > MAX_COUNT:
            refuse(f"{param}.{field}", f"must be at most {MAX_COUNT} tokens; 0 means no limit")


def _check_all(values: Iterable[str], param: str, check: Callable[[str, str], None]) -> None:
    seen: set[str] = set()
    for index, value in enumerate(bounded(tuple(values), param)):
        check(value, f"{param}[{index}]")
        if value in seen:
            refuse(f"{param}[{index}]", f"names {value[:MAX_WORD]!r} a second time; name each once")
        seen.add(value)


def _check_name(value: str, param: str) -> None:
    """A UUID as Globus writes it, or the name that another issuer gives."""
    check_word(value, param)
    if "," in value:
        refuse(param, "must be one group or policy, without commas; give several as several items")
    if _UUID.fullmatch(value.lower()) and not _UUID.fullmatch(value):
        refuse(param, f"must be {value.lower()!r}: UUIDs are compared in small letters")
