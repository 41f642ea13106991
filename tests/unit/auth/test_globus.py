"""Tokens of Globus Auth, through the real globus-sdk, against a stand-in that speaks the real wire format."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.auth.config import AuthConfig
from services.auth.denials import DenialStore
from services.auth.globus import active_groups
from services.auth.identities import Identities, open_identities
from services.auth.judge import Judge
from services.auth.judged import Judged
from services.auth.policy_config import mesh_policy
from services.auth.store import KeyStore
from services.auth.uses import KeyUses
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Role
from services.runtime.database import open_database
from tests.testing.globus_auth import App, GlobusAuth
from tests.testing.oidc_issuer import OidcIssuer

SECRET = "globus-client-s3cret-of-this-test"
INTROSPECT = "/v2/oauth2/token/introspect"


@pytest.fixture
def globus(monkeypatch: pytest.MonkeyPatch) -> Iterator[GlobusAuth]:
    with GlobusAuth() as globus:
        for name, value in globus.environ.items():
            monkeypatch.setenv(name, value)
        yield globus


@pytest.fixture
def weft(globus: GlobusAuth) -> App:
    return globus.add_app("weft", SECRET)


Open = Callable[..., Any]


@pytest.fixture
async def opened(weft: App, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens a judge for settings of auth's section."""
    engine = open_database("", tmp_path / "auth.db", setting="auth.database")
    store = KeyStore(engine)
    (tmp_path / "globus.secret").write_text(f"{SECRET}\n")

    @asynccontextmanager
    async def opened(now: Callable[[], float] = time.time, **settings: Any) -> AsyncIterator[Judge]:
        own = {"client_id": weft.id, "client_secret_file": "globus.secret", **settings.pop("globus", {})}
        policy = {"allowed_domains": ["anl.gov"], **settings.pop("policy", {})}
        config = msgspec.convert({"globus": own, "policy": policy, **settings}, AuthConfig)
        mesh = mesh_policy(config.policy, config.quotas)
        identities = open_identities(config.globus, config.issuers, mesh, home=tmp_path, max_age=config.max_age_s)
        await store.start()
        try:
            yield Judge(store, DenialStore(engine), KeyUses(store), identities=identities, mesh=mesh, clock=now)
        finally:
            await identities.close()

    yield opened
    await store.close()


async def refusal(judge: Judge, token: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await judge.look_up(token)
    return caught.value


# Who that is


async def test_a_person(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice = globus.add_person("alice@anl.gov", name="Alice Ames")
    group, invited = globus.join(alice), globus.join(alice, status="invited")
    token = globus.token(alice, weft, session=globus.session(alice, age=60, mfa=True))
    async with opened(quotas=[{"subject": "users/*", "tokens_per_minute": 1000}]) as judge:
        judged: Judged = await judge.look_up(token)
    principal, identity = judged.principal, judged.principal.identity
    assert principal.name == "users/alice@anl.gov"
    assert principal.roles == {Role.USER}
    assert principal.permissions.allow_models == ("*",)
    assert [(one.subject, one.quota.tokens_per_minute) for one in principal.quotas] == [("users/alice@anl.gov", 1000)]
    assert identity.kind is CredentialKind.GLOBUS
    assert identity.subject == alice.identities[0].id
    assert (identity.username, identity.display_name, identity.domain) == ("alice@anl.gov", "Alice Ames", "anl.gov")
    assert identity.identity_provider == alice.identities[0].provider
    assert identity.identity_provider_name == "Provider of anl.gov"
    assert identity.groups == {group}
    assert invited not in identity.groups
    assert identity.mfa
    assert not identity.service_account
    assert time.time() - (identity.authenticated_at or 0) == pytest.approx(60, abs=10)
    assert judged.max_age == 30.0
    assert judged.expires_at == pytest.approx(time.time() + 600, abs=10)


async def test_a_token_that_ends_soon_is_not_kept_longer(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice = globus.add_person("alice@anl.gov")
    async with opened() as judge:
        judged: Judged = await judge.look_up(globus.token(alice, weft, lasts=10))
    assert judged.max_age <= 10
    assert (judged.expires_at or 0) <= time.time() + 10


async def test_a_service_account(globus: GlobusAuth, weft: App, opened: Open) -> None:
    robot, stranger = globus.add_app("robot", "r0b0t"), globus.add_app("stranger", "x")
    group = globus.join(robot)
    async with opened(policy={"service_accounts": [f"services/{robot.id}"]}) as judge:
        principal = (await judge.look_up(globus.token(robot, weft))).principal
        assert principal.identity.groups == {group}
        assert principal.name == f"services/{robot.id}"
        assert principal.identity.service_account
        assert principal.identity.username == robot.username
        error = await refusal(judge, globus.token(stranger, weft))
    assert error.reason is Reason.IDENTITY_FORBIDDEN
    assert "service accounts" in error.message


async def test_an_application_that_acts_for_a_person_is_that_person(
    globus: GlobusAuth, weft: App, opened: Open
) -> None:
    portal = globus.add_app("portal", "p0rtal")
    alice = globus.add_person("alice@anl.gov")
    async with opened() as judge:
        principal = (await judge.look_up(globus.token(alice, weft, client=portal))).principal
    assert principal.name == "users/alice@anl.gov"


@pytest.mark.parametrize(
    ("username", "name", "domain"),
    [
        ("alice@anl.gov", "users/alice@anl.gov", "anl.gov"),
        # An identity of Google's that was made for an address at Argonne: not Argonne's.
        ("alice@anl.gov@accounts.google.com", "users/alice@anl.gov@accounts.google.com", "accounts.google.com"),
        ("Alice@ANL.gov", "users/alice@anl.gov", "ANL.gov"),
        # A Kelvin sign, whose small letter is an ordinary k.
        ("fran\u212a@anl.gov", None, "anl.gov"),
        ("o'hara@anl.gov", None, "anl.gov"),
        ("Ærik@anl.gov", None, "anl.gov"),
    ],
)
async def test_names(globus: GlobusAuth, weft: App, opened: Open, username: str, name: str | None, domain: str) -> None:
    person = globus.add_person(username)
    async with opened(policy={"allowed_domains": [], "allowed_principals": ["*"]}) as judge:
        principal = (await judge.look_up(globus.token(person, weft))).principal
    assert principal.name == (name or f"users/{person.identities[0].id}")
    assert principal.identity.domain == domain


async def test_the_login_that_counts_is_the_one_that_the_mesh_admits(
    globus: GlobusAuth, weft: App, opened: Open
) -> None:
    alice = globus.add_person("alice@gmail.com", "alice@anl.gov", "ames@anl.gov")
    session = globus.session(alice, identity=0, age=1)
    globus.authenticate(session, alice, identity=1, age=600)
    async with opened() as judge:
        assert (await judge.look_up(globus.token(alice, weft, session=session))).principal.name == "users/alice@anl.gov"
        globus.authenticate(session, alice, identity=2, age=60)
        assert (await judge.look_up(globus.token(alice, weft, session=session))).principal.name == "users/ames@anl.gov"


async def test_an_identity_that_is_merely_linked_proves_nothing(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice = globus.add_person("alice@anl.gov", "alice@gmail.com")
    async with opened() as judge:
        error = await refusal(judge, globus.token(alice, weft, session=globus.session(alice, identity=1)))
        assert error.reason is Reason.IDENTITY_FORBIDDEN
        assert "gmail.com" in error.message
        silent = globus.session(alice)
        silent.authentications.clear()
        error = await refusal(judge, globus.token(alice, weft, session=silent))
    assert error.reason is Reason.SESSION_INSUFFICIENT
    assert "weft login" in error.message


def test_a_group_counts_with_an_active_membership_alone() -> None:
    groups = [
        {"id": "a", "my_memberships": [{"status": "invited"}, {"status": "active"}]},
        {"id": "b", "my_memberships": [{"status": "pending"}]},
        {"id": "c", "my_memberships": []},
        {"id": "d"},
    ]
    assert active_groups(groups) == ("a",)
    assert active_groups({"errors": []}) == ()


# Whose tokens are not taken


@pytest.mark.parametrize("lenient", [False, True])
async def test_a_token_for_another_service(globus: GlobusAuth, weft: App, opened: Open, lenient: bool) -> None:
    other = globus.add_app("other", "0ther")
    alice = globus.add_person("alice@anl.gov")
    globus.lenient = lenient
    async with opened() as judge:
        for token, why in (
            (globus.token(alice, other), "another service"),
            (globus.token(alice, other, client=weft, scope=weft.scope), "another service"),
            (globus.token(alice, weft, scope="openid"), "the scope"),
            (globus.token(alice, weft, scope=f"{weft.scope}_more"), "the scope"),
        ):
            error = await refusal(judge, token)
            assert error.reason is Reason.CREDENTIAL_INVALID
            assert not lenient or why in error.message


async def test_tokens_that_are_not_good(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice = globus.add_person("alice@anl.gov")
    revoked, expired = globus.token(alice, weft), globus.token(alice, weft, lasts=-1)
    globus.revoke(revoked)
    async with opened() as judge:
        for token in (revoked, expired, "Ag" + "x" * 80):
            assert (await refusal(judge, token)).reason is Reason.CREDENTIAL_INVALID
        asked = globus.requests[INTROSPECT]
        assert asked == 3
        for token in ("", "x", "Ag" + "x" * 5000, "Ag xx xx xx xx xx xx", "Ag\r\nhost: evil xxxxx", "é" * 40):
            assert (await refusal(judge, token)).reason is Reason.CREDENTIAL_INVALID
        assert globus.requests[INTROSPECT] == asked


async def test_credentials_of_others_are_not_shown_to_globus(globus: GlobusAuth, weft: App, opened: Open) -> None:
    """Weft's own, tokens of an issuer that is not configured, and of one that is."""
    with OidcIssuer() as issuer, OidcIssuer() as stranger:
        known = {"name": "corp", "issuer": issuer.url, "audiences": ["weft"]}
        policy = {"allowed_domains": [], "allowed_principals": ["*"]}
        async with opened(issuers=[known], policy=policy) as judge:
            assert (await judge.look_up(issuer.token())).principal.name == "users/ada@corp"
            for token in (
                "weft_0123456789ab_" + "x" * 43,
                "weft_start_0123456789ab_" + "x" * 43,
                stranger.token(),
                stranger.token(iss=issuer.url),
            ):
                assert (await refusal(judge, token)).reason is Reason.CREDENTIAL_INVALID
        assert stranger.requests.total() == 0
    assert globus.requests.total() == 0


# What the mesh's policy says


async def test_domains_providers_and_groups(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice, bob = globus.add_person("alice@anl.gov"), globus.add_person("bob@evilanl.gov")
    group = globus.join(alice)
    a, b = globus.token(alice, weft), globus.token(bob, weft)
    provider = alice.identities[0].provider
    nobody: dict[str, Any] = {"allowed_domains": []}
    for policy in (
        {},
        {"allowed_identity_providers": [provider]},
        {"allowed_groups": [group, "another"]},
        {**nobody, "allowed_principals": ["users/alice@anl.gov"]},
        {**nobody, "allowed_principals": ["*"], "provider_groups": {bob.identities[0].provider: [group]}},
        {**nobody, "allowed_principals": ["*"], "provider_groups": {"EvilANL.gov": [group]}},
    ):
        async with opened(policy=policy) as judge:
            assert (await judge.look_up(a)).principal.name == "users/alice@anl.gov"
            error = await refusal(judge, b)
            assert error.reason is Reason.IDENTITY_FORBIDDEN, policy
            assert "users/bob@evilanl.gov" in error.message


async def test_administrators(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice, bob, eve = (globus.add_person(f"{name}@anl.gov") for name in ("alice", "bob", "eve"))
    group = globus.join(bob)
    globus.join(eve, group, status="pending")
    roles: dict[str, bool] = {}
    async with opened(policy={"administrators": ["users/alice@anl.gov", f"groups/{group}"]}) as judge:
        for person in (alice, bob, eve):
            principal = (await judge.look_up(globus.token(person, weft))).principal
            roles[principal.name] = Role.ADMIN in principal.roles
    assert roles == {"users/alice@anl.gov": True, "users/bob@anl.gov": True, "users/eve@anl.gov": False}


async def test_a_session_that_is_too_old(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice = globus.add_person("alice@anl.gov")
    now = time.time()
    token = globus.token(alice, weft, session=globus.session(alice, age=3590))
    async with opened(lambda: now, policy={"max_session_age_s": 3600}) as judge:
        judged: Judged = await judge.look_up(token)
        # No longer than the verdict holds.
        assert judged.max_age <= 10
        now += 11
        error = await refusal(judge, token)
        assert error.reason is Reason.SESSION_INSUFFICIENT
        assert "weft login --force" in error.message
    assert globus.requests[INTROSPECT] == 1


async def test_a_second_factor(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice = globus.add_person("alice@anl.gov")
    weak, strong = globus.session(alice), globus.session(alice, mfa=True)
    half = globus.session(alice)
    half.authentications[alice.identities[0].id].amr = ["pwd"]
    async with opened(policy={"require_mfa": True}) as judge:
        for session in (weak, half):
            error = await refusal(judge, globus.token(alice, weft, session=session))
            assert error.reason is Reason.SESSION_INSUFFICIENT
        await judge.look_up(globus.token(alice, weft, session=strong))


async def test_authentication_policies(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice = globus.add_person("alice@anl.gov")
    recent, factor = globus.add_policy(max_age=600), globus.add_policy(mfa=True)
    fresh, old = globus.session(alice), globus.session(alice, age=1200)
    settings = {"policy": {"authentication_policies": [recent]}, "globus": {"authentication_policies": [factor]}}
    async with opened(**settings) as judge:
        principal = (await judge.look_up(globus.token(alice, weft, session=fresh))).principal
        assert principal.identity.authentication_policies == {recent}
        strong = globus.token(alice, weft, session=globus.session(alice, mfa=True))
        assert (await judge.look_up(strong)).principal.identity.authentication_policies == {recent, factor}
        assert (await refusal(judge, globus.token(alice, weft, session=old))).reason is Reason.SESSION_INSUFFICIENT
    async with opened(policy={"authentication_policies": [recent, "11111111-2222-3333-4444-555555555555"]}) as judge:
        assert (await refusal(judge, globus.token(alice, weft))).reason is Reason.SESSION_INSUFFICIENT


# Outages, and many at once


@pytest.mark.parametrize("status", [0, 429, 500, 503])
@pytest.mark.parametrize("where", ["/v2/oauth2/token/introspect", "/v2/oauth2/token$", "/v2/groups"])
async def test_an_outage_keeps_known_callers_and_refuses_nobody_for_good(
    globus: GlobusAuth, weft: App, opened: Open, where: str, status: int
) -> None:
    alice, bob = globus.add_person("alice@anl.gov"), globus.add_person("bob@anl.gov")
    a, b = globus.token(alice, weft), globus.token(bob, weft)
    async with opened() as judge:
        await judge.look_up(a)
        globus.fail(where, status)
        assert (await judge.look_up(a)).principal.name == "users/alice@anl.gov"
        error = await refusal(judge, b)
        assert error.reason is Reason.AUTH_UNAVAILABLE
        assert error.kind.http == 503
        globus.heal()
        assert (await judge.look_up(b)).principal.name == "users/bob@anl.gov"


async def test_our_own_secret_is_wrong(
    globus: GlobusAuth, weft: App, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    alice = globus.add_person("alice@anl.gov")
    weft.secret = "another-one"
    async with opened() as judge:
        assert (await refusal(judge, globus.token(alice, weft))).reason is Reason.AUTH_UNAVAILABLE
    assert "auth.globus.client_id" in caplog.text


async def test_a_scope_that_does_not_depend_on_groups(
    globus: GlobusAuth, weft: App, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    alice = globus.add_person("alice@anl.gov")
    weft.sees_groups = False
    async with opened() as judge:
        assert (await refusal(judge, globus.token(alice, weft))).reason is Reason.AUTH_UNAVAILABLE
    assert "Globus Groups" in caplog.text or "does not depend" in caplog.text
    async with opened(globus={"ask_groups": False}) as judge:
        assert (await judge.look_up(globus.token(alice, weft))).principal.identity.groups == frozenset()


async def test_a_hundred_callers_ask_once_and_the_loop_goes_on(globus: GlobusAuth, weft: App, opened: Open) -> None:
    alice = globus.add_person("alice@anl.gov")
    token = globus.token(alice, weft)
    async with opened() as judge:
        globus.hold(INTROSPECT)
        calls = [asyncio.ensure_future(judge.look_up(token)) for _ in range(100)]
        # Held there, while this loop goes on: were the question on it, this would never return.
        await asyncio.to_thread(globus.until_held)
        globus.release()
        assert {judged.principal.name for judged in await asyncio.gather(*calls)} == {"users/alice@anl.gov"}
    assert globus.requests == {INTROSPECT: 1, "/v2/oauth2/token": 1, "/v2/groups/my_groups": 1}


async def test_too_many_new_callers_at_once(globus: GlobusAuth, weft: App, opened: Open) -> None:
    people = [globus.add_person(f"user{number}@anl.gov") for number in range(4)]
    tokens = [globus.token(person, weft) for person in people]
    async with opened(globus={"threads": 1, "waiting": 2}) as judge:
        globus.hold(INTROSPECT)
        calls = [asyncio.ensure_future(judge.look_up(token)) for token in tokens[:2]]
        await asyncio.to_thread(globus.until_held)
        assert (await refusal(judge, tokens[2])).reason is Reason.AUTH_UNAVAILABLE
        globus.release()
        await asyncio.gather(*calls)
        await judge.look_up(tokens[2])


# Secrets


async def test_no_secret_stands_anywhere(
    globus: GlobusAuth, weft: App, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("globus_sdk", "urllib3", "asyncio", "aiohttp"):
        caplog.set_level(logging.DEBUG, logger=name)
    alice = globus.add_person("alice@anl.gov")
    token, wrong, other = globus.token(alice, weft), "Ag" + "wr0ng" * 16, globus.token(alice, weft)
    said: list[str] = []
    async with opened() as judge:
        judged = await judge.look_up(token)
        said += [repr(judged), str(judged), repr(judge), repr(vars(judge))]
        for path, status in (("nothing", 0), (INTROSPECT, 0), ("/v2/oauth2/token$", 401), ("/v2/groups", 500)):
            globus.fail(path, status)
            error = await refusal(judge, wrong if path == "nothing" else other)
            said += [
                repr(error),
                str(error),
                error.message,
                repr(error.__cause__),
                repr(error.__notes__ if hasattr(error, "__notes__") else ""),
            ]
            globus.heal()
        identities = vars(judge)["_identities"]
        assert isinstance(identities, Identities)
        said += [repr(vars(identities)), repr(identities)]
    said.append(caplog.text)
    assert "introspect" in caplog.text  # It is the whole flow that was logged.
    secrets = [SECRET, token, wrong, other, *globus.tokens]
    assert not [secret for secret in secrets if any(secret in one for one in said)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"policy": {}}, "who may use the mesh"),
        ({"policy": {"allowed_domain": ["anl.gov"]}}, "allowed_domain"),
        ({"policy": {"allowed_domains": ["anl.gov"], "administrators": ["*"]}}, "administrators"),
        ({"policy": {"allowed_domains": ["anl.gov"], "administrators": ["users/*"]}}, "administrators"),
        ({"policy": {"allowed_domains": ["anl.gov"], "service_accounts": ["users/x"]}}, "service_accounts"),
        ({"policy": {"allowed_domains": ["anl.gov"], "max_session_age_s": 0}}, "max_session_age_s"),
        ({"quotas": [{"subject": "alice"}]}, "subject"),
        ({"quotas": [{"subject": "groups/*"}]}, "subject"),
        ({"quotas": [{"subject": "users/*", "tokens_per_minute": -1}]}, "tokens_per_minute"),
        ({"globus": {"client_id": "x", "client_secret": "y"}}, "client_secret"),
        ({"globus": {"client_id": "x", "threads": 0}}, "threads"),
    ],
)
def test_settings_that_are_refused(change: dict[str, Any], said: str) -> None:
    fine = {"globus": {"client_id": "x", "client_secret_env": "Y"}, "policy": {"allowed_domains": ["anl.gov"]}}
    msgspec.convert(fine, AuthConfig)
    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.convert({**fine, **change}, AuthConfig)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"client_secret_file": "", "client_secret_env": ""}, "needs one of"),
        ({"client_secret_env": "BOTH"}, "needs one of"),
        ({"client_secret_file": "missing"}, "cannot be read"),
        ({"client_secret_file": "", "client_secret_env": "WEFT_TEST_NOT_SET"}, "is empty"),
    ],
)
async def test_a_secret_that_is_not_there(opened: Open, own: dict[str, str], said: str) -> None:
    with pytest.raises(ServiceError, match=said) as caught:
        async with opened(globus=own):
            pass
    assert caught.value.reason is Reason.ARGUMENT_INVALID


async def test_without_the_globus_sdk(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "globus_sdk", None)
    monkeypatch.delitem(sys.modules, "services.auth.globus", raising=False)
    with pytest.raises(ServiceError, match="weft\\[globus\\]"):
        async with opened():
            pass
    # Other issuers need none of it.
    async with opened(globus={"client_id": ""}) as judge:
        assert (await refusal(judge, "Ag" + "x" * 80)).reason is Reason.CREDENTIAL_INVALID
