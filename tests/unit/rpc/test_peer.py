"""Who is at the other end, by its certificate or by what a proxy says of it."""

from typing import Any

import pytest

from services.rpc.peer import FORWARDED, Trust, part_host, part_id, path_of, peer_id, trust_domain_of

ENVOY = "spiffe://weft/envoy"
ALICE = "spiffe://weft/users/alice"
BOB = "spiffe://weft/users/bob"
ADMIN = "spiffe://weft/weft/admin"


class Context:
    """An RPC's context, as far as it tells of the peer."""

    def __init__(self, *uris: str, headers: tuple[str, ...] = (), more: dict[str, list[bytes]] | None = None) -> None:
        self._uris = uris
        self._headers = headers
        self._more = more or {}

    def auth_context(self) -> dict[str, list[bytes]]:
        return {**({"peer_uri": [uri.encode() for uri in self._uris]} if self._uris else {}), **self._more}

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        return (("user-agent", "test"), *((FORWARDED, header) for header in self._headers))


def who(*uris: str, headers: tuple[str, ...] = ()) -> str | None:
    return peer_id(Context(*uris, headers=headers), (ENVOY,), trust_domain="weft")


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        ((ALICE,), ALICE),
        ((), None),
        ((ALICE, BOB), None),
        ((ALICE, "https://example.org"), None),
        (("spiffe://other/users/alice",), None),
        (("https://weft/users/alice",), None),
        (("spiffe://weft",), None),
        (("spiffe://weft/",), None),
        (("spiffe://weft/users//alice",), None),
        (("spiffe://weft/users/../weft/admin",), None),
        (("spiffe://weft/users/al%69ce",), None),
        (("spiffe://weft/users/alice\n",), None),
        (("spiffe://WEFT/users/alice",), None),
        (("spiffe://weft:443/users/alice",), None),
        ((f"spiffe://weft/{'a' * 2048}",), None),
        (("\xff\xfe",), None),
    ],
)
def test_a_certificate_has_exactly_one_id_of_our_trust_domain(uris: tuple[str, ...], expected: str | None) -> None:
    assert who(*uris) == expected


def test_a_dns_name_that_looks_like_an_id_is_none() -> None:
    more = {"x509_subject_alternative_name": [ALICE.encode()], "peer_dns": [ALICE.encode()]}
    assert peer_id(Context(more=more), (ENVOY,), trust_domain="weft") is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"By={ENVOY};Hash=00ff;URI={ALICE}", ALICE),
        (f'By={ENVOY};Hash=00ff;Subject="CN=alice,O=\\"x\\"";URI={ALICE};DNS=a.example', ALICE),
        (f'by={ENVOY};hash=00ff;uri="{ALICE}"', ALICE),
        # What the client sent stands before what Envoy appended.
        (f"By={ENVOY};Hash=ff;URI={ADMIN},By={ENVOY};Hash=00;URI={ALICE}", ALICE),
        (f"URI={ADMIN};Hash=ff,By={ENVOY};Hash=00;URI=", None),
        (f"By={ENVOY};Hash=00;URI={ADMIN},By={ENVOY};Hash=00", None),
        # An element that ends within the client's quotes.
        (f'By={ENVOY};Hash=00;Subject="CN=x,URI={ADMIN}";URI={ALICE}', ALICE),
        (f'By={ENVOY};Hash=00;Subject="CN=\\",URI={ADMIN};X=\\"";URI={ALICE}', ALICE),
        (f'Subject="open,By={ENVOY};Hash=00;URI={ALICE}', None),
        # A DNS name that smuggles a pair.
        (f"By={ENVOY};Hash=00;URI=;DNS=x;URI={ADMIN}", None),
        (f"By={ENVOY};Hash=00;URI={ALICE};DNS=x;URI={ADMIN}", None),
        # Passed on by a proxy that writes none itself.
        (f"By=spiffe://weft/other-proxy;Hash=00;URI={ALICE}", None),
        (f"By={ENVOY};Hash=00;URI=spiffe://other/users/alice", None),
        (f"By={ENVOY};Hash=00;URI={ALICE},", None),
        (f"By={ENVOY};Hash=00;URI={ALICE};", None),
        (f"By={ENVOY};Hash=00;URI={ALICE}, ", None),
        (f"By={ENVOY};Hash=00;URI={ALICE}\x00", None),
        ("", None),
        ("nonsense", None),
        (ALICE, None),
    ],
)
def test_a_proxys_word_for_its_client(header: str, expected: str | None) -> None:
    assert who(ENVOY, headers=(header,)) == expected


def test_a_proxy_that_says_nothing_calls_for_nobody() -> None:
    assert who(ENVOY) is None


def test_two_headers_are_not_of_one_envoy() -> None:
    header = f"By={ENVOY};Hash=00;URI={ALICE}"
    assert who(ENVOY, headers=(header, header)) is None


@pytest.mark.parametrize("own", [(ALICE,), (ALICE, ENVOY), ("spiffe://other/envoy",), ()])
def test_the_header_of_anybody_else_is_ignored(own: tuple[str, ...]) -> None:
    assert who(*own, headers=(f"By={ENVOY};Hash=00;URI={ADMIN}",)) == (own[0] if own == (ALICE,) else None)


def test_parts_and_their_names() -> None:
    trust = Trust("example.org")
    assert trust.part(part_id("example.org", "router")) == "router"
    assert trust.part("spiffe://example.org/weft/other") == ""
    assert trust.part("spiffe://example.org/weft/router/x") == ""
    assert trust.part("spiffe://example.org/users/alice") is None
    assert trust.part("spiffe://weft/weft/router") is None
    assert part_host("example.org", "router") == "router.weft.example.org"
    assert (trust_domain_of(ALICE), path_of(ALICE)) == ("weft", "users/alice")
