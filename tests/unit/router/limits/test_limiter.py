"""The limiter with what it counts in memory."""

from collections.abc import Callable

import pytest

from services.core.errors import CATALOGUE, Reason, ServiceError
from services.core.quota import Quota
from services.router.limits import limiter as limiter_module
from services.router.limits.claims import Claim
from services.router.limits.headers import duration
from services.router.limits.limiter import Admission, Limiter
from services.router.limits.source import OwnSource
from tests.testing.clock import Clock

ALICE = "users/alice"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock=clock.time)


def admit(limiter: Limiter, *claims: Claim, principal: str = ALICE, tokens: int = 1) -> Admission:
    admission = limiter.admit(claims, principal=principal, tokens=tokens)
    assert admission is not None
    return admission


def refused(take: Callable[[], object]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        take()
    return caught.value


def test_a_call_without_limits_is_always_admitted(limiter: Limiter) -> None:
    admission = admit(limiter, tokens=10**9)
    assert admission.headers == ()
    assert limiter.room((), principal=ALICE) is None
    admission.settle(5)


def test_requests_of_a_second(limiter: Limiter, clock: Clock) -> None:
    claim = Claim(ALICE, Quota(requests_per_second=2.5))
    for _ in range(2):
        admit(limiter, claim).settle(0)
    error = refused(lambda: admit(limiter, claim))
    assert error.reason is Reason.REQUESTS_EXHAUSTED
    assert error.message == "'users/alice' may begin 2 calls a second; try again in 1.05 s."
    clock.advance(1.06)
    admit(limiter, claim)


def test_less_than_one_request_a_second(limiter: Limiter, clock: Clock) -> None:
    claim = Claim(ALICE, Quota(requests_per_second=0.25))
    admit(limiter, claim)
    clock.advance(3.9)
    assert "1 call in 4 s" in refused(lambda: admit(limiter, claim)).message
    clock.advance(0.4)
    admit(limiter, claim)


def test_tokens_are_reserved_and_settled(limiter: Limiter, clock: Clock) -> None:
    claim = Claim(ALICE, Quota(tokens_per_minute=1000))
    first = admit(limiter, claim, tokens=880)
    error = refused(lambda: admit(limiter, claim, tokens=300))
    assert error.reason is Reason.TOKENS_EXHAUSTED
    assert error.message == (
        "'users/alice' may use 1000 tokens per minute, of which 120 are left, and this call may use up to 300; "
        "try again in 61 s."
    )
    assert error.retry_after is not None
    assert [(v.subject, v.description) for v in error.violations] == [(ALICE, "1000 tokens per minute")]
    assert dict(error.headers)["x-ratelimit-remaining-tokens"] == "120"
    clock.advance(10)
    first.settle(80)
    first.settle(0)  # changes nothing
    assert limiter.room((claim,), principal=ALICE) == 920
    clock.advance(51.1)
    assert limiter.room((claim,), principal=ALICE) == 1000, "it counts from the admission, not from the settlement"


def test_what_was_used_beyond_the_reserve_is_charged_too(limiter: Limiter) -> None:
    claim = Claim(ALICE, Quota(tokens_per_minute=1000))
    admit(limiter, claim, tokens=100).settle(1500)
    assert limiter.room((claim,), principal=ALICE) == 0
    assert refused(lambda: admit(limiter, claim, tokens=1)).reason is Reason.TOKENS_EXHAUSTED


def test_a_call_that_could_never_be_admitted(limiter: Limiter) -> None:
    claim = Claim(ALICE, Quota(tokens_per_minute=1000, tokens_per_day=5000))
    error = refused(lambda: admit(limiter, claim, tokens=4000))
    assert (error.reason, error.param) == (Reason.TOKENS_ABOVE_LIMIT, "max_tokens")
    assert error.message == (
        "This call may use up to 4000 tokens, and 'users/alice' may use 1000 per minute; give a 'max_tokens' "
        "that is lower by 3000, or shorten the prompt."
    )


def test_calls_at_once(limiter: Limiter) -> None:
    claim = Claim("routes/llama users/alice", Quota(concurrent_calls=2))
    first = admit(limiter, claim)
    admit(limiter, claim)
    error = refused(lambda: admit(limiter, claim))
    assert error.reason is Reason.CALLS_EXHAUSTED
    assert (
        error.message == "'users/alice' at 'routes/llama' may have 2 calls open at once; try again when one has ended."
    )
    first.settle(0)
    admit(limiter, claim)


def test_all_claims_or_none(limiter: Limiter) -> None:
    wide = Claim(ALICE, Quota(tokens_per_minute=1000, requests_per_second=100, concurrent_calls=5))
    narrow = Claim("routes/llama", Quota(tokens_per_minute=100))
    admit(limiter, wide, narrow, tokens=100).settle(100)
    for _ in range(10):
        refused(lambda: admit(limiter, wide, narrow, tokens=100))
    assert limiter.room((wide,), principal=ALICE) == 900
    for _ in range(5):
        admit(limiter, wide)


def test_a_group_is_fair(limiter: Limiter, clock: Clock) -> None:
    claim = Claim("groups/g", Quota(tokens_per_minute=1000, concurrent_calls=4))
    greedy = [admit(limiter, claim, tokens=225) for _ in range(4)]
    refused(lambda: admit(limiter, claim, principal="users/bob", tokens=100))
    greedy[0].settle(225)
    error = refused(lambda: admit(limiter, claim, tokens=1))
    assert [violation.description for violation in error.violations] == [
        "4 calls open at once",
        "1000 tokens per minute",
    ]
    admit(limiter, claim, principal="users/bob", tokens=100).settle(100)
    clock.advance(61.1)
    admit(limiter, claim, tokens=1000)


def test_limits_change_at_any_time(limiter: Limiter) -> None:
    admit(limiter, Claim(ALICE, Quota(tokens_per_minute=1000)), tokens=600).settle(600)
    assert limiter.room((Claim(ALICE, Quota(tokens_per_minute=2000)),), principal=ALICE) == 1400
    assert limiter.room((Claim(ALICE, Quota(tokens_per_minute=500)),), principal=ALICE) == 0


def test_a_subject_that_is_claimed_twice_counts_once_by_the_stricter_quota(limiter: Limiter) -> None:
    claims = Claim(ALICE, Quota(tokens_per_minute=1000)), Claim(ALICE, Quota(tokens_per_minute=300))
    admit(limiter, *claims, tokens=200).settle(200)
    assert limiter.room(claims, principal=ALICE) == 100


def test_headers_are_of_the_tightest_rules(limiter: Limiter) -> None:
    wide = Claim("routes/llama", Quota(requests_per_second=50, tokens_per_minute=10_000, tokens_per_day=20_000))
    narrow = Claim(ALICE, Quota(requests_per_second=10, tokens_per_day=5000))
    headers = dict(admit(limiter, wide, narrow, tokens=100).headers)
    assert headers["x-ratelimit-limit-requests"] == "10"
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert headers["x-ratelimit-limit-tokens"] == "5000"
    assert headers["x-ratelimit-remaining-tokens"] == "4900"
    assert headers["x-ratelimit-reset-tokens"].startswith("24h")


def test_durations_are_written_as_openai_does() -> None:
    assert [duration(seconds) for seconds in (0.0115, 1.0, 360.0, 59.2, 86399.5)] == [
        "12ms",
        "1s",
        "6m0s",
        "1m0s",
        "24h0m0s",
    ]


def test_what_is_used_no_more_is_forgotten(limiter: Limiter, clock: Clock) -> None:
    source = OwnSource()
    limiter = Limiter(source, clock.time)
    for i in range(100):
        admit(limiter, Claim(f"users/{i}", Quota(tokens_per_minute=5)), principal=f"users/{i}").settle(1)
    held = admit(limiter, Claim(ALICE, Quota(concurrent_calls=5)))
    clock.advance(200)
    limiter.sweep()
    assert len(source) == 1
    held.settle(0)
    clock.advance(200)
    limiter.sweep()
    assert len(source) == 0


def test_subjects_are_bounded(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "MOST_ACCOUNTS", 3)
    for i in range(3):
        admit(limiter, Claim(f"users/{i}", Quota(tokens_per_minute=5)), principal=f"users/{i}")
    error = refused(lambda: admit(limiter, Claim("users/3", Quota(tokens_per_minute=5)), principal="users/3"))
    assert error.reason is Reason.LIMITS_UNAVAILABLE


def test_the_sentences_look_like_the_catalogues_examples() -> None:
    for reason in (Reason.REQUESTS_EXHAUSTED, Reason.CALLS_EXHAUSTED, Reason.TOKENS_EXHAUSTED):
        assert CATALOGUE[reason].example.startswith("'users/alice' may ")
