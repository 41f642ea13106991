"""What it costs a warm call to be known, allowed and counted: authentication, permission and limits; and, beside that,
the record of its use.

Each gate is the router's own: a Globus identity with groups, policies at cluster, endpoint and route, records written
to the disk by their thread. The limits are those of a careful site (calls a second and tokens a minute of the caller,
tokens a day of its group, tokens a minute of the route, tokens a minute, of each caller too, and open calls of the
endpoint: seven counters); and, beside them, all that there are: four of the caller, the group, the route, the endpoint
and the cluster, of the last three of each caller too: 32 counters. The same calls go by none of them, by one, and by
all, in turns; what is reported is the difference in CPU time of the whole process within one round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from weft.auth.v1 import auth_pb2

from bench.figures import Figures, Quantity
from services.core.access import Ask
from services.core.catalogue import (
    AccessPolicy,
    Catalogue,
    Cluster,
    Endpoint,
    ModelBinding,
    Route,
    RouteTarget,
    SessionBackend,
)
from services.core.inference import Request
from services.core.principal import CredentialKind, Identity, Permissions, Principal, Role
from services.core.quota import Limits, Quota, SubjectQuota
from services.router.bill import Accounting
from services.router.body import read_body
from services.router.limits.limiter import Limiter
from services.router.permits import Permits
from services.router.roster import Roster
from services.router.usage_log import UsageLog
from services.router.usage_spool import UsageSpool
from services.rpc.authenticator import CachedAuthenticator
from services.rpc.principal import principal_to_proto

LOAD: Final = "the gates of a warm call"
SYSTEM: Final = "one process"
ALL: Final = "CPU per call, all gates"
WITH: Final = "CPU per call, with the gates"
WITHOUT: Final = "CPU per call, without"
AUTHENTICATION: Final = "CPU per call, authentication"
PERMISSION: Final = "CPU per call, permission"
LIMITS: Final = "CPU per call, limits"
EVERY_LIMIT: Final = "CPU per call, every limit there is"
RECORDED: Final = "CPU per call, keeping its record"

_CALLS: Final = 2_000
"""In one turn."""
_TOKEN: Final = "Ag" + "x" * 90
_GROUP: Final = "11111111-2222-3333-4444-555555555555"
_ENDPOINT: Final = "clusters/one/endpoints/one"
_WIDE: Final = Quota(1e9, 10**6, 10**15, 10**15)
_BODY: Final = b'{"model": "m", "messages": [{"role": "user", "content": "%b"}], "max_tokens": 8}' % (b"word " * 120)
_REQUEST: Final = Request("/v1/chat/completions", (("authorization", f"Bearer {_TOKEN}"),), _BODY)
_ASK: Final = Ask("/v1/chat/completions", "m")


class _Limited(NamedTuple):
    """Who may use how much of what."""

    caller: Quota
    group: Quota
    route: Limits
    endpoint: Limits
    cluster: Limits


_USUAL: Final = _Limited(
    Quota(requests_per_second=1e9, tokens_per_minute=10**15),
    Quota(tokens_per_day=10**15),
    Limits(Quota(tokens_per_minute=10**15)),
    Limits(Quota(concurrent_calls=10**6, tokens_per_minute=10**15), Quota(tokens_per_minute=10**15)),
    Limits(),
)
_EVERY: Final = _Limited(_WIDE, _WIDE, *([Limits(_WIDE, _WIDE)] * 3))
_NONE: Final = _Limited(Quota(), Quota(), *([Limits()] * 3))


def _principal(limited: _Limited) -> Principal:
    now = time.time()
    identity = Identity(
        CredentialKind.GLOBUS,
        "id",
        "alice@anl.gov",
        domain="anl.gov",
        groups=frozenset({_GROUP}),
        authenticated_at=now,
    )
    quotas = (SubjectQuota("users/alice@anl.gov", limited.caller), SubjectQuota(f"groups/{_GROUP}", limited.group))
    return Principal("users/alice@anl.gov", frozenset({Role.USER}), Permissions(("*",)), identity, quotas)


def _catalogue(limited: _Limited) -> Catalogue:
    access = AccessPolicy(allowed_globus_groups=(_GROUP,), allowed_domains=("anl.gov",), max_session_age=86400.0)
    model = ModelBinding("m")
    endpoint = Endpoint(_ENDPOINT, SessionBackend(), models=(model,), access=access, limits=limited.endpoint)
    route = Route("routes/m", "m", targets=(RouteTarget(_ENDPOINT, "m"),), access=access, limits=limited.route)
    return Catalogue.of([Cluster("clusters/one", access=access, limits=limited.cluster), endpoint, route])


class _Auth:
    """Auth, as far as the cache of principals asks it: once."""

    async def Authenticate(self, request: Any, **_: Any) -> auth_pb2.AuthenticateResponse:  # noqa: N802
        answer = auth_pb2.AuthenticateResponse(principal=principal_to_proto(_principal(_USUAL)))
        answer.max_age.FromSeconds(3600)
        return answer


async def measure(seconds: float, rounds: int, home: Path, figures: Figures) -> None:
    """Adds the figures of so many rounds, of so many seconds each."""
    principals: Any = CachedAuthenticator(_Auth(), lambda: "")  # type: ignore[arg-type]
    principal = await principals.authenticate(_TOKEN)
    catalogue = _catalogue(_USUAL)
    every, nothing = (_principal(_EVERY), _catalogue(_EVERY)), (_principal(_NONE), _catalogue(_NONE))
    roster = Roster(settle=0)
    roster.set_catalogue(catalogue)
    permits = Permits(roster)
    log = UsageLog(UsageSpool(home / "usage", most_bytes=2**28))
    log.start()
    accounting = Accounting(Limiter(), log.record)
    wanted = read_body(_BODY)

    def authenticate() -> None:
        principals.peek(_TOKEN)

    def permit() -> None:
        permits.permit(principal, _ASK)

    unrecorded = Accounting(Limiter(), lambda record: None)

    def go(through: Accounting, who: Principal, exists: Catalogue) -> None:
        bill = through.open(who, _REQUEST, exists)
        bill.model = "m"
        assert bill.admit(wanted)
        assert bill.admit_at(exists, _ENDPOINT)
        bill.close("ok", 200, reached=True)

    def limit() -> None:
        go(unrecorded, principal, catalogue)

    def bill() -> None:  # without limits, and kept nowhere
        go(unrecorded, *nothing)

    def limit_in_every_way() -> None:
        go(unrecorded, *every)

    def record() -> None:
        go(accounting, *nothing)

    def decode() -> None:  # What a call costs anyway, so that the ratio says something.
        read_body(_BODY)

    ways: dict[str, tuple[Callable[[], None], ...]] = {
        WITHOUT: (decode, bill),
        AUTHENTICATION: (decode, bill, authenticate),
        PERMISSION: (decode, bill, permit),
        LIMITS: (decode, limit),
        EVERY_LIMIT: (decode, limit_in_every_way),
        RECORDED: (decode, record),
        WITH: (decode, authenticate, permit, limit),
    }
    try:
        for _ in range(rounds):
            used = _round(ways, seconds)
            for name, cost in used.items():
                alone = name in (WITH, WITHOUT)
                figures.add(Quantity(name, "µs", LOAD), SYSTEM, cost if alone else cost - used[WITHOUT])
            figures.add(Quantity(ALL, "µs", LOAD), SYSTEM, used[WITH] - used[WITHOUT])
    finally:
        await log.close()
        await principals.close()


def _round(ways: dict[str, tuple[Callable[[], None], ...]], seconds: float) -> dict[str, float]:
    """µs of CPU time a call, of each way; they take turns, so that a machine that changes does so for all."""
    used, turns = dict.fromkeys(ways, 0), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        turns += 1
        for name, steps in ways.items():
            began = time.process_time_ns()
            for _ in range(_CALLS):
                for step in steps:
                    step()
            used[name] += time.process_time_ns() - began
    return {name: ns / 1e3 / _CALLS / turns for name, ns in used.items()}
