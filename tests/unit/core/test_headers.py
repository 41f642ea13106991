"""Which headers travel."""

from __future__ import annotations

import pytest

from services.core.errors import Reason, ServiceError
from services.core.headers import TO_CLIENT, TO_ROUTER, TO_UPSTREAM, select


@pytest.mark.parametrize("name", ["authorization", "cookie", "x-api-key", "proxy-authorization", "host", "forwarded"])
def test_no_credential_and_no_trace_of_the_client_reaches_an_upstream(name):
    assert select(((name, "secret"), ("accept", "*/*")), TO_UPSTREAM) == (("accept", "*/*"),)


def test_the_router_alone_sees_the_credential_and_how_long_a_client_waits():
    assert {"authorization", "prefer", "x-stainless-read-timeout", "x-stainless-timeout"} == TO_ROUTER - TO_UPSTREAM
    assert "authorization" not in TO_CLIENT


def test_order_and_repetition_stay():
    headers = (("accept", "a"), ("x-other", "b"), ("content-type", "c"), ("accept", "d"))
    assert select(headers, TO_UPSTREAM) == (("accept", "a"), ("content-type", "c"), ("accept", "d"))


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\x00b", "\x7f", "\ud800"])
def test_a_value_that_no_header_can_have_is_refused(value):
    with pytest.raises(ServiceError) as caught:
        select((("x-request-id", value),), TO_UPSTREAM)
    assert caught.value.reason is Reason.HEADER_INVALID
    assert "x-request-id" in caught.value.message


@pytest.mark.parametrize("value", ["", "a b\tc", "ümlaut", "\U0001f600"])
def test_a_value_that_a_header_can_have_passes(value):
    assert select((("x-request-id", value),), TO_UPSTREAM) == (("x-request-id", value),)


def test_a_bad_value_of_a_header_that_does_not_travel_is_nobodys_trouble():
    assert select((("cookie", "a\r\nb"),), TO_UPSTREAM) == ()
