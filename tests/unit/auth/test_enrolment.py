"""Enrolment tokens, and why one is refused."""

from dataclasses import replace

import pytest

from services.auth.enrolment import Enrolment, check_secret, new_token, refusal, split
from services.auth.keys import new_key
from services.auth.keys import split as split_key
from services.core.errors import Reason, ServiceError

ENDPOINT = "clusters/local/endpoints/sim"
KNOWN = Enrolment("start-1", ENDPOINT, "", 2000.0)


def test_a_token_is_taken_apart_and_shown_nowhere() -> None:
    text, token = new_token("start-1")
    parts = split(text)
    assert parts is not None
    assert parts[0] == token.id
    assert check_secret(token, parts[1]) is token
    assert parts[1] not in repr(token)
    assert token.digest.hex() not in repr(token)
    assert repr(token.digest) not in repr(token)


def test_keys_and_enrolment_tokens_are_told_apart() -> None:
    assert split_key(new_token("start-1")[0]) is None
    assert split(new_key()[0]) is None
    assert split("weft_start_000000000000_short") is None


def test_two_tokens_of_a_start_differ() -> None:
    assert new_token("start-1")[0] != new_token("start-1")[0]


@pytest.mark.parametrize("known", [True, False])
def test_a_wrong_secret_or_an_unknown_token(known: bool) -> None:
    token = new_token("start-1")[1] if known else None
    with pytest.raises(ServiceError) as caught:
        check_secret(token, "a" * 43)
    assert caught.value.reason is Reason.CREDENTIAL_INVALID


@pytest.mark.parametrize(
    ("known", "now", "reason", "word"),
    [
        (None, 1000.0, Reason.CREDENTIAL_INVALID, "not one of ours"),
        (replace(KNOWN, endpoint="clusters/local/endpoints/gpu"), 1000.0, Reason.ACTION_FORBIDDEN, "is not for"),
        (replace(KNOWN, revoked_at=900.0), 1000.0, Reason.ACTION_FORBIDDEN, "revoked"),
        (replace(KNOWN, instance="run-2"), 1000.0, Reason.ACTION_FORBIDDEN, "has its worker already"),
        (replace(KNOWN, instance="run-2"), 3000.0, Reason.ACTION_FORBIDDEN, "has its worker already"),
        (KNOWN, 2000.0, Reason.CREDENTIAL_EXPIRED, "expired"),
        (KNOWN, 1000.0, Reason.RESOURCE_CHANGED, "try again"),
    ],
)
def test_why_it_is_refused(known: Enrolment | None, now: float, reason: Reason, word: str) -> None:
    error = refusal(known, endpoint=ENDPOINT, instance="run-1", now=now)
    assert error.reason is reason
    assert word in error.message
