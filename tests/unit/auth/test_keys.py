"""API keys: their shape, what is stored, what is judged, and that none is ever shown."""

from dataclasses import replace

import pytest

from services.auth.keys import Key, digest, judge, new_key, split
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal

NOW = 1000.0


def made() -> tuple[str, Key]:
    credential, identity, hashed = new_key()
    return credential, Key(identity, hashed, Principal("users/ada"), "", NOW)


def reason(key: Key | None, secret: str, now: float = NOW) -> Reason:
    with pytest.raises(ServiceError) as caught:
        judge(key, secret, now)
    return caught.value.reason


def test_a_key_holds_its_id_and_256_random_bits() -> None:
    credential, key = made()
    parts = split(credential)
    assert parts is not None
    assert parts[0] == key.id
    assert len(parts[1]) == 43  # 32 bytes as base64
    assert digest(parts[1]) == key.digest
    assert credential.startswith(key.prefix)
    assert new_key()[0] != credential


@pytest.mark.parametrize("text", ["", "weft_", "sk-abc", "weft_0123_x", "weft_" + "0" * 12 + "_" + "a" * 44, "eyJ.a.b"])
def test_what_is_no_key(text: str) -> None:
    assert split(text) is None


def test_judging() -> None:
    credential, key = made()
    secret = credential.split("_", 2)[2]
    assert judge(key, secret, NOW) is key
    assert reason(key, secret[:-1]) is Reason.CREDENTIAL_INVALID
    assert reason(None, secret) is Reason.CREDENTIAL_INVALID
    assert reason(None, "no key has this hash") is Reason.CREDENTIAL_INVALID
    assert reason(replace(key, revoked_at=NOW - 1), secret) is Reason.CREDENTIAL_INVALID
    expiring = replace(key, expires_at=NOW + 1)
    assert judge(expiring, secret, NOW + 0.9) is expiring
    assert reason(expiring, secret, NOW + 1) is Reason.CREDENTIAL_EXPIRED
    assert reason(expiring, "wrong", NOW + 1) is Reason.CREDENTIAL_INVALID, "who has not the key learns nothing of it"


def test_a_record_does_not_show_the_hash() -> None:
    _, key = made()
    assert repr(key.digest) not in repr(key)
