"""Session tokens that are good no longer: refused, and the sessions that they began ended."""

import asyncio

import pytest
from weft.session.v1 import frame_pb2

from services.core.catalogue import Catalogue, Endpoint, ModelBinding, SessionBackend
from services.core.errors import Reason, ServiceError
from services.router.revoked import RevokedTokens
from services.rpc.revocations import EVERYTHING, Revocation, RevocationKind
from services.rpc.session_token import SessionClaims
from tests.unit.router.test_sessions import ENDPOINT, SOON, Attached, Stream, reason_of, report

LATER = 1e12
BY_KEY = SessionClaims(ENDPOINT, "i", "workers/w", LATER, key="a")
BY_START = SessionClaims(ENDPOINT, "j", "workers/s", LATER, start="s")
KEY = Revocation(RevocationKind.KEY, "keys/a")
DENIED = Revocation(RevocationKind.PRINCIPAL, "workers/w")
START = Revocation(RevocationKind.START, "s")
ADMITTED = Revocation(RevocationKind.CHANGED, "workers/w")


def reason(tokens: RevokedTokens, claims: SessionClaims) -> Reason | None:
    refusal = tokens.refusal(claims)
    return refusal.reason if refusal is not None else None


def revoked(*revocations: Revocation, capacity: int = 100) -> RevokedTokens:
    tokens = RevokedTokens(capacity)
    for revocation in revocations:
        tokens.note(revocation)
    return tokens


@pytest.mark.parametrize(
    ("revocations", "by_key", "by_start"),
    [
        ((), None, None),
        ((KEY,), Reason.CREDENTIAL_INVALID, None),
        ((DENIED,), Reason.IDENTITY_FORBIDDEN, None),
        ((START,), None, Reason.ACTION_FORBIDDEN),
        ((DENIED, ADMITTED), None, None),
        ((KEY, DENIED, ADMITTED), Reason.CREDENTIAL_INVALID, None),
        ((KEY, START, EVERYTHING), None, None),
        ((EVERYTHING, KEY), Reason.CREDENTIAL_INVALID, None),
    ],
)
def test_a_token_is_refused_for_what_it_was_given_for(
    revocations: tuple[Revocation, ...], by_key: Reason | None, by_start: Reason | None
) -> None:
    tokens = revoked(*revocations)
    assert (reason(tokens, BY_KEY), reason(tokens, BY_START)) == (by_key, by_start)


def test_denials_are_told_in_small_letters() -> None:
    claims = SessionClaims(ENDPOINT, "i", "workers/W", LATER, key="b")
    assert reason(revoked(DENIED), claims) is Reason.IDENTITY_FORBIDDEN


def test_the_list_is_bounded() -> None:
    tokens = revoked(KEY, *(Revocation(RevocationKind.START, f"s{number}") for number in range(3)), capacity=3)
    assert reason(tokens, BY_KEY) is None


def dial(attached: Attached, claims: SessionClaims) -> tuple[Stream, asyncio.Task[None]]:
    stream = Stream()
    carried = asyncio.get_running_loop().create_task(attached.sessions.carry(claims, "peer", stream))
    stream.say(hello=frame_pb2.Hello(version=1, agent="worker", max_calls=4))
    return stream, carried


@pytest.mark.parametrize(
    ("revocation", "expected"), [(KEY, Reason.CREDENTIAL_INVALID), (DENIED, Reason.IDENTITY_FORBIDDEN)]
)
async def test_a_revoked_key_or_denied_worker_ends_its_session_and_cannot_come_back(
    revocation: Revocation, expected: Reason
) -> None:
    attached = Attached()
    stream, carried = dial(attached, BY_KEY)
    other, other_carried = dial(attached, BY_START)
    await attached.until_changed()
    attached.sessions.revoke(revocation)
    assert await reason_of(carried) is expected
    assert stream.farewell == expected.value
    assert [server.instance for server in attached.roster.servers] == ["j"]
    assert await reason_of(dial(attached, BY_KEY)[1]) is expected
    other.hang_up()
    await asyncio.wait_for(other_carried, SOON)


async def test_calls_of_a_worker_that_is_refused_hear_that_it_is_lost_and_not_why() -> None:
    """The worker's key is no fault of theirs, and WORKER_LOST lets them go elsewhere."""
    attached = Attached()
    _, carried = dial(attached, BY_KEY)
    await attached.until_changed()
    (session,) = attached.sessions
    attached.sessions.revoke(KEY)
    closed = session.link.mux.closed
    assert closed is not None
    assert closed.reason is Reason.WORKER_LOST
    assert await reason_of(carried) is Reason.CREDENTIAL_INVALID


async def test_the_worker_of_a_revoked_start_finishes_its_calls_and_takes_no_more() -> None:
    attached = Attached()
    stream, carried = dial(attached, BY_START)
    stream.say(report=report())
    while not attached.roster.find("m"):
        await attached.until_changed()
    attached.sessions.revoke(START)
    (target,) = attached.roster.find("m") or ()
    assert target.server.draining
    assert not carried.done()
    assert await reason_of(dial(attached, BY_START)[1]) is Reason.ACTION_FORBIDDEN
    assert not carried.done(), "one who is refused ends nobody else's session"
    stream.hang_up()
    await asyncio.wait_for(carried, SOON)
    assert [frame.stop.why for frame in stream.told if frame.HasField("stop")] == ["its start was revoked"]


async def test_a_worker_that_is_admitted_again_comes_back_with_its_token() -> None:
    attached = Attached()
    attached.sessions.revoke(DENIED)
    assert await reason_of(dial(attached, BY_KEY)[1]) is Reason.IDENTITY_FORBIDDEN
    attached.sessions.revoke(ADMITTED)
    stream, carried = dial(attached, BY_KEY)
    await attached.until_changed()
    stream.hang_up()
    await asyncio.wait_for(carried, SOON)


async def test_a_worker_gets_calls_only_for_the_models_that_its_endpoint_is_registered_for() -> None:
    attached = Attached()
    registered = Endpoint(ENDPOINT, SessionBackend(), models=(ModelBinding("m"),))
    attached.roster.set_catalogue(Catalogue.of([registered]))
    stream, carried = dial(attached, BY_KEY)
    models = [frame_pb2.ServedModel(id=name) for name in ("m", "gpt-4")]
    stream.say(report=frame_pb2.Report(state=frame_pb2.WORKER_STATE_READY, models=models, max_calls=4))
    while not attached.roster.find("m"):
        await attached.until_changed()
    assert not attached.roster.find("gpt-4")
    stream.hang_up()
    await asyncio.wait_for(carried, SOON)


def test_a_refusal_names_its_remedy() -> None:
    with pytest.raises(ServiceError, match="weft keys create"):
        raise revoked(KEY).refusal(BY_KEY) or AssertionError
