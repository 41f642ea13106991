"""Tokens of an issuer of OpenID Connect, real keys and a real issuer over HTTP: what is taken, and what never."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from services.auth.config import AuthConfig
from services.auth.identity_config import ClaimNames, IssuerConfig
from services.auth.oidc import OidcIssuer as Verifier
from services.auth.oidc import issuer_of
from services.auth.oidc_keys import IssuerKeys
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind
from tests.testing.oidc_issuer import IssuerKey, OidcIssuer, ec_key, rsa_key


@pytest.fixture
def issuer() -> Iterator[OidcIssuer]:
    with OidcIssuer() as issuer:
        yield issuer


class Now:
    """A clock in the test's hands."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def configured(issuer: OidcIssuer, **settings: Any) -> IssuerConfig:
    return IssuerConfig(**{"name": "corp", "issuer": issuer.url, "audiences": ("weft",), **settings})


def verifier(issuer: OidcIssuer, clock: Now | None = None, **settings: Any) -> Verifier:
    config, clock = configured(issuer, **settings), clock or Now()
    keys = IssuerKeys(
        config.issuer,
        timeout=config.timeout_s,
        kept_for=config.keys_kept_for_s,
        every=config.keys_asked_every_s,
        clock=clock,
    )
    return Verifier(config, keys, clock=clock)


async def refusal(verifier: Verifier, token: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await verifier.ask(token)
    return caught.value


def part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


async def test_who_that_is(issuer: OidcIssuer) -> None:
    config: dict[str, Any] = {"claims": ClaimNames(username="preferred_username"), "domains": ("Anl.gov",)}
    token = issuer.token(
        preferred_username="alice@anl.gov",
        name="Alice Ames",
        groups=["staff", 7, "with space"],
        auth_time=int(time.time()) - 30,
        amr=["pwd", "mfa"],
    )
    principal, until = await verifier(issuer, **config).ask(token)
    identity = principal.identity
    assert principal.name == "users/alice@anl.gov"
    assert not principal.roles
    assert identity.kind is CredentialKind.OIDC
    assert (identity.domain, identity.identity_provider, identity.display_name) == ("anl.gov", issuer.url, "Alice Ames")
    assert identity.groups == {"staff@corp"}
    assert identity.mfa
    assert time.time() - (identity.authenticated_at or 0) < 60
    assert until == pytest.approx(time.time() + 360, abs=5)


@pytest.mark.parametrize(
    ("claims", "name", "domain"),
    [
        ({"sub": "ada"}, "users/ada@corp", ""),
        ({"sub": "ada@anl.gov"}, "users/ada@anl.gov", "anl.gov"),
        ({"sub": "Ada@ANL.gov"}, "users/ada@anl.gov", "anl.gov"),
        ({"sub": "Ada"}, "users/Ada@corp", ""),
        # Nobody of a domain that the issuer does not vouch for, whatever it says.
        ({"sub": "ada@uchicago.edu"}, "users/ada@uchicago.edu@corp", ""),
        ({"sub": "ada@anl.gov@evil.example"}, "users/ada@anl.gov@evil.example@corp", ""),
        ({"sub": "service-account-robot"}, "services/service-account-robot@corp", ""),
    ],
)
async def test_names_of_issuers_do_not_collide(
    issuer: OidcIssuer, claims: dict[str, Any], name: str, domain: str
) -> None:
    judge = verifier(issuer, domains=("anl.gov",), service_accounts=("service-account-*",))
    principal = (await judge.ask(issuer.token(**claims))).principal
    assert (principal.name, principal.identity.domain) == (name, domain)
    assert principal.identity.service_account is name.startswith("services/")


@pytest.mark.parametrize("sub", ["auth0|77", "fran\u212a@anl.gov", "../admin", "ada\n", "x" * 200, ""])
async def test_a_username_that_can_be_no_principal(issuer: OidcIssuer, sub: str) -> None:
    error = await refusal(verifier(issuer), issuer.token(sub=sub))
    assert error.reason is Reason.IDENTITY_FORBIDDEN
    assert "claims.username" in error.message


async def test_an_address_that_was_not_verified_names_nobody(issuer: OidcIssuer) -> None:
    judge = verifier(issuer, claims=ClaimNames(username="email"), domains=("anl.gov",))
    assert (await refusal(judge, issuer.token(email="root@anl.gov"))).reason is Reason.IDENTITY_FORBIDDEN
    token = issuer.token(email="ada@anl.gov", email_verified=True)
    assert (await judge.ask(token)).principal.name == "users/ada@anl.gov"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "another-service"}, Reason.CREDENTIAL_INVALID),
        ({"aud": None}, Reason.CREDENTIAL_INVALID),
        ({"iss": "https://issuer.example"}, Reason.CREDENTIAL_INVALID),
        ({"sub": None}, Reason.CREDENTIAL_INVALID),
        ({"exp": None}, Reason.CREDENTIAL_INVALID),
        ({"exp": int(time.time()) - 3600}, Reason.CREDENTIAL_EXPIRED),
        ({"exp": float("nan")}, Reason.CREDENTIAL_INVALID),
        ({"exp": float("inf")}, Reason.CREDENTIAL_INVALID),
        ({"exp": True}, Reason.CREDENTIAL_INVALID),
        ({"exp": 10**400}, Reason.CREDENTIAL_INVALID),
        ({"azp": ["cli"]}, Reason.CREDENTIAL_INVALID),
        ({"nbf": int(time.time()) + 3600}, Reason.CREDENTIAL_INVALID),
        ({"azp": "another-client"}, Reason.CREDENTIAL_INVALID),
        ({"azp": "cli", "scope": "openid"}, Reason.CREDENTIAL_INVALID),
    ],
)
async def test_claims_that_are_not_good(issuer: OidcIssuer, claims: dict[str, Any], reason: Reason) -> None:
    judge = verifier(issuer, clients=("cli",), scope="weft")
    fine: dict[str, Any] = {"azp": "cli", "scope": "openid weft"}
    assert (await judge.ask(issuer.token(**fine))).principal.name == "users/ada@corp"
    assert (await refusal(judge, issuer.token(**{**fine, **claims}))).reason is reason


@pytest.mark.parametrize("late", [-30, 30])
async def test_clocks_may_go_wrong_a_little(issuer: OidcIssuer, late: int) -> None:
    now = int(time.time())
    token = issuer.token(exp=now - 30) if late < 0 else issuer.token(nbf=now + 30)
    assert (await verifier(issuer).ask(token)).until > now


@pytest.mark.parametrize("said", [float("nan"), "yesterday", 2**40, True])
async def test_a_login_at_no_time_is_at_a_time_unknown(issuer: OidcIssuer, said: Any) -> None:
    principal = (await verifier(issuer).ask(issuer.token(auth_time=said))).principal
    assert principal.identity.authenticated_at is None


# Forgery


async def test_without_a_signature(issuer: OidcIssuer) -> None:
    _, claims, signature = issuer.token().split(".")
    for header in ({"alg": "none"}, {"alg": "None", "kid": issuer.keys[0].id}, {"kid": issuer.keys[0].id}, {"alg": 7}):
        for end in ("", signature):
            error = await refusal(verifier(issuer), f"{part(header)}.{claims}.{end}")
            assert error.reason is Reason.CREDENTIAL_INVALID


@pytest.mark.parametrize("key", [rsa_key(), ec_key()], ids=["rsa", "ec"])
async def test_signed_with_the_public_key_as_a_shared_secret(issuer: OidcIssuer, key: IssuerKey) -> None:
    issuer.keys = [key]
    _, claims, _ = issuer.token().split(".")
    text = f"{part({'alg': 'HS256', 'kid': key.id})}.{claims}"
    signature = hmac.new(key.pem, text.encode(), hashlib.sha256).digest()
    forged = f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    assert (await refusal(verifier(issuer), forged)).reason is Reason.CREDENTIAL_INVALID


async def test_a_swapped_key(issuer: OidcIssuer) -> None:
    """The id of the issuer's key, the signature of one's own; and one's own key in the header."""
    own = ec_key()
    stolen_id = IssuerKey(own.private, "ES256", issuer.keys[0].id)
    forged = [
        issuer.token(key=stolen_id),
        issuer.token(key=own, header={"jwk": own.published}),
        issuer.token(key=own, header={"jku": "https://evil.example/keys"}),
        issuer.token(key=own, header={"kid": "../../dev/null"}),
        issuer.token(key=own, header={"kid": "' OR 1=1"}),
        issuer.token(key=IssuerKey(own.private, "ES256", ""), header={"kid": ""}),
    ]
    for token in forged:
        assert (await refusal(verifier(issuer), token)).reason is Reason.CREDENTIAL_INVALID


async def test_what_is_marked_as_critical_is_not_passed_over(issuer: OidcIssuer) -> None:
    token = issuer.token(header={"crit": ["exp"]})
    assert (await refusal(verifier(issuer), token)).reason is Reason.CREDENTIAL_INVALID


async def test_a_key_signs_with_its_own_algorithm_alone(issuer: OidcIssuer) -> None:
    key = rsa_key("RS256")
    issuer.keys = [key]
    other = issuer.token(key=IssuerKey(key.private, "PS256", key.id))
    assert (await refusal(verifier(issuer), other)).reason is Reason.CREDENTIAL_INVALID
    assert (await refusal(verifier(issuer, algorithms=("ES256",)), issuer.token())).reason is Reason.CREDENTIAL_INVALID
    assert (await verifier(issuer, algorithms=("RS256",)).ask(issuer.token())).principal.name == "users/ada@corp"


@pytest.mark.parametrize(
    "published",
    [
        {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k", "alg": "HS256"}]},
        {"keys": [rsa_key(bits=1024).published]},
        {"keys": [{**ec_key().published, "use": "enc"}]},
        {"keys": [{**ec_key().published, "crv": "P-384"}]},
        {"keys": "none"},
        {"keys": [None, 7, {}]},
        {"keys": [{**ec_key().published, "alg": ["ES256"]}, {"kty": ["RSA"]}, {"kty": "EC", "crv": {}}]},
    ],
    ids=["shared", "short", "encrypts", "wrong-curve", "no-list", "nonsense", "lists"],
)
async def test_keys_that_verify_nothing(issuer: OidcIssuer, published: dict[str, Any]) -> None:
    issuer.published = published
    assert (await refusal(verifier(issuer), issuer.token())).reason is Reason.AUTH_UNAVAILABLE


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://issuer.example"},
        {"jwks_uri": "http://169.254.169.254/latest/meta-data"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
    ],
)
async def test_a_discovery_document_that_leads_elsewhere(issuer: OidcIssuer, document: dict[str, Any]) -> None:
    issuer.document = document
    assert (await refusal(verifier(issuer), issuer.token())).reason is Reason.AUTH_UNAVAILABLE


async def test_an_endless_answer_is_cut_off(issuer: OidcIssuer) -> None:
    issuer.published = {"keys": [], "filling": "x" * (2 << 20)}
    assert (await refusal(verifier(issuer), issuer.token())).reason is Reason.AUTH_UNAVAILABLE


# Rotation and outages


async def test_rotation(issuer: OidcIssuer) -> None:
    clock = Now()
    judge = verifier(issuer, clock)
    old = issuer.token()
    await judge.ask(old)
    clock.now += 11
    issuer.rotate()
    assert (await judge.ask(issuer.token())).principal.name == "users/ada@corp"
    assert (await refusal(judge, old)).reason is Reason.CREDENTIAL_INVALID
    assert issuer.requests["/keys"] == 2


async def test_unknown_key_ids_keep_nobody_busy(issuer: OidcIssuer) -> None:
    clock = Now()
    judge = verifier(issuer, clock)
    forged = ec_key()
    for _ in range(20):
        error = await refusal(judge, issuer.token(key=forged))
        assert error.reason is Reason.CREDENTIAL_INVALID
        # No longer remembered than until the next look: the key may have been added just now.
        assert 0 < (error.retry_after or 0) <= 10
    assert issuer.requests["/keys"] == 1
    clock.now += 11
    await refusal(judge, issuer.token(key=forged))
    assert issuer.requests["/keys"] == 2


async def test_an_issuer_that_is_away(issuer: OidcIssuer) -> None:
    clock = Now()
    judge = verifier(issuer, clock)
    issuer.fail("/", 0)
    assert (await refusal(judge, issuer.token())).reason is Reason.AUTH_UNAVAILABLE
    issuer.heal()
    clock.now += 2
    await judge.ask(issuer.token())
    issuer.fail("/", 503)
    # With the keys that it has, it judges on …
    assert (await judge.ask(issuer.token(sub="bob"))).principal.name == "users/bob@corp"
    # … as long as they may be believed: one of them may have been withdrawn.
    clock.now += 3601
    token = issuer.token(exp=int(clock.now) + 60)
    assert (await refusal(judge, token)).reason is Reason.AUTH_UNAVAILABLE
    issuer.heal()
    clock.now += 2
    assert (await judge.ask(token)).principal.name == "users/ada@corp"


# Shapes and settings


@pytest.mark.parametrize(
    ("credential", "issuer"),
    [
        ("AgKq" + "x" * 90, None),
        ("a.b.c", None),
        (f"{part({'alg': 'none'})}.{part({'iss': 'https://x'})}.", "https://x"),
        (f"{part({'alg': 'none'})}.{part({})}.AAAA", ""),
        (f"{part({'alg': 'none'})}.{part({'iss': ['https://x']})}.AAAA", ""),
        (f"{part({'alg': 'none'})}.%%%%.AAAA", None),
        ("x" * 20_000, None),
    ],
)
def test_what_a_credential_says_of_its_issuer(credential: str, issuer: str | None) -> None:
    assert issuer_of(credential) == issuer


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "anl.gov"}, "name"),
        ({"issuer": "http://issuer.example"}, "https"),
        ({"audiences": []}, "audiences"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"domains": ["*.gov"]}, "domains"),
        ({"leeway_s": 86400}, "leeway_s"),
        ({"audience": "weft"}, "audience"),
    ],
)
def test_settings_that_are_refused(change: dict[str, Any], said: str) -> None:
    fine = {"name": "corp", "issuer": "https://issuer.example", "audiences": ["weft"]}
    everybody = {"allowed_principals": ["*"]}
    msgspec.convert({"issuers": [fine], "policy": everybody}, AuthConfig)
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert({"issuers": [{**fine, **change}], "policy": everybody}, AuthConfig)


@pytest.mark.parametrize("same", [{"name": "a"}, {"issuer": "https://a.example"}, {"domains": ["anl.gov"]}])
def test_two_issuers_are_told_apart(same: dict[str, Any]) -> None:
    one = {"name": "a", "issuer": "https://a.example", "audiences": ["weft"], "domains": ["anl.gov"]}
    two = {"name": "b", "issuer": "https://b.example", "audiences": ["weft"], **same}
    with pytest.raises(msgspec.ValidationError, match="twice"):
        msgspec.convert({"issuers": [one, two], "policy": {"allowed_principals": ["*"]}}, AuthConfig)
