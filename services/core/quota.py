"""How much may be used; by the names of `weft.registry.v1.Quota` and `Limits`. 0 means without limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """Calls that begin within a second, calls that are open at once, and tokens, of prompts and answers together,
    within any 60 seconds and any 24 hours. Tokens count in the window in which their call began.
    """

    requests_per_second: float = 0.0
    concurrent_calls: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0

    @property
    def bounds_tokens(self) -> bool:
        """Whether it says anything of tokens."""
        return bool(self.tokens_per_minute or self.tokens_per_day)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a cluster, an endpoint or a route: of all callers together, and of each."""

    together: Quota = Quota()
    each: Quota = Quota()


@dataclass(frozen=True, slots=True)
class SubjectQuota:
    """How much a principal may use, `users/{user}`, or the members of a group together, `groups/{group}`."""

    subject: str
    quota: Quota


@dataclass(frozen=True, slots=True)
class QuotaRule:
    """What a mesh's policy grants: to each principal that a pattern fits, or to a group, `groups/{group}`, as one."""

    subject: str
    quota: Quota
