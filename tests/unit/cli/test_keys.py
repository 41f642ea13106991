"""What `weft keys` reads from its command line."""

import pytest
import typer
from weft.auth.v1 import auth_pb2

from services.cli.keys import ends_soon, parse_lifetime, parse_role, state


@pytest.mark.parametrize(("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("45s", 45)])
def test_a_lifetime_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1.5h", "30 d", "30w", "9999999999d"])
def test_any_other_lifetime_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30d"):
        parse_lifetime(text)


def test_roles_go_by_their_names() -> None:
    assert parse_role("admin") == auth_pb2.ROLE_ADMIN
    for wrong in ("root", "unspecified", ""):
        with pytest.raises(typer.BadParameter, match="user, admin, worker, service"):
            parse_role(wrong)


def test_a_key_that_ends_soon_is_told_once_nobody_has_replaced_it() -> None:
    now, day = 1_000_000.0, 86400

    def key(left: float, **fields: str) -> auth_pb2.Key:
        made = auth_pb2.Key(name="keys/a", **fields)
        made.expire_time.FromSeconds(int(now + left))
        return made

    assert ends_soon(key(13 * day), now)
    assert not ends_soon(key(15 * day), now)
    assert not ends_soon(key(-1), now), "it is over"
    assert not ends_soon(key(13 * day, successor="keys/b"), now)
    assert not ends_soon(auth_pb2.Key(), now), "it does not end"
    revoked = key(13 * day)
    revoked.revoke_time.FromSeconds(int(now))
    assert not ends_soon(revoked, now)


def test_the_state_of_a_key_tells_whether_it_is_over() -> None:
    now = 1_000_000.0
    ends = auth_pb2.Key(successor="keys/b")
    ends.expire_time.FromSeconds(1_000_060)
    assert state(auth_pb2.Key(), now) == "good"
    assert state(ends, now) == "until 1970-01-12T13:47:40Z; then keys/b"
    assert state(ends, now + 60) == "expired 1970-01-12T13:47:40Z; then keys/b"
    ends.revoke_time.FromSeconds(1_000_000)
    assert state(ends, now + 60) == "revoked 1970-01-12T13:46:40Z"
