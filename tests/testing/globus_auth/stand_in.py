"""The stand-in as tests hold it: who exists, who logs in, what fails."""

from __future__ import annotations

import time
import uuid
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from tests.testing.globus_auth.groups import GroupRoutes
from tests.testing.globus_auth.oauth import OAuthRoutes
from tests.testing.globus_auth.records import (
    GROUPS,
    REFEDS_MFA,
    VIEW_GROUPS,
    App,
    Authentication,
    Code,
    Grant,
    Identity,
    Person,
    Policy,
    Session,
    new_token,
)
from tests.testing.hosted_site import HostedSite


class GlobusAuth(HostedSite):
    """Globus Auth and Groups at one address; see the package for how to use it.

    `lenient` answers about any token to whoever asks, as if it were for them: only so can a test see that the asker
    checks the audience itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.apps: dict[str, App] = {}
        self.people: list[Person] = []
        self.tokens: dict[str, Grant] = {}
        self.refresh_tokens: dict[str, Grant] = {}
        self.codes: dict[str, Code] = {}
        self.policies: dict[str, Policy] = {}
        self.lenient = False
        self.browser: Person | None = None
        """Who sits at the browser that opens the authorization URL over HTTP."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """See `HostedSite`."""
        return [*OAuthRoutes(self).routes(), *GroupRoutes(self).routes()]

    @property
    def environ(self) -> dict[str, str]:
        """What makes the globus-sdk, 4.9 too, speak to it."""
        return {"GLOBUS_SDK_SERVICE_URL_AUTH": f"{self.url}/", "GLOBUS_SDK_SERVICE_URL_GROUPS": f"{self.url}/"}

    # Who exists

    def add_app(self, name: str = "weft", secret: str = "") -> App:
        """A registered application: confidential with a secret, native without."""
        app = App(name, secret)
        self.apps[app.id] = app
        return app

    def add_person(self, *usernames: str, name: str = "Alice Ames") -> Person:
        """A person with linked identities, the primary one first; each domain is an identity provider of its own."""
        known = {one.domain: one.provider for person in self.people for one in person.identities}
        identities: list[Identity] = []
        for username in usernames:
            domain = username.partition("@")[2]
            provider = known.setdefault(domain, str(uuid.uuid4()))
            identities.append(Identity(username, name, provider, f"Provider of {domain}"))
        self.people.append(Person(identities))
        return self.people[-1]

    def join(self, person: Person | App, group: str = "", *, status: str = "active") -> str:
        """Makes the person, or a service account, a member of a group, a new one if none is named; gives its id."""
        group = group or str(uuid.uuid4())
        person.memberships[group] = status
        return group

    def add_policy(self, *, max_age: float | None = None, mfa: bool = False, domains: tuple[str, ...] = ()) -> str:
        """An authentication policy's id."""
        identity = str(uuid.uuid4())
        self.policies[identity] = Policy(max_age, mfa, domains)
        return identity

    # Who logs in

    def session(self, person: Person, *, identity: int = 0, age: float = 0.0, mfa: bool = False) -> Session:
        """A session in which the person logged in with one of their identities, `age` seconds ago."""
        session = Session()
        self.authenticate(session, person, identity=identity, age=age, mfa=mfa)
        return session

    def authenticate(
        self, session: Session, person: Person, *, identity: int = 0, age: float = 0.0, mfa: bool = False
    ) -> None:
        """One more login within a session."""
        who = person.identities[identity]
        amr = ["pwd", "mfa"] if mfa else None
        login = Authentication(who.provider, int(time.time() - age), REFEDS_MFA if mfa else None, amr)
        session.authentications[who.id] = login

    def token(
        self,
        owner: Person | App,
        server: App,
        *,
        client: App | None = None,
        session: Session | None = None,
        lasts: float = 172_800.0,
        scope: str = "",
    ) -> str:
        """An access token for the server's scope, or another, without the way through a browser. An application as its
        owner is a service account.
        """
        if session is None:
            session = self.session(owner) if isinstance(owner, Person) else Session()
        if client is None:
            client = owner if isinstance(owner, App) else server
        token = new_token()
        self.tokens[token] = Grant(owner, client, (scope or server.scope,), server.id, session, time.time() + lasts)
        return token

    def revoke(self, token: str) -> None:
        """Makes a token worthless."""
        self.tokens.pop(token, None)
        self.refresh_tokens.pop(token, None)

    def consent(self, url: str, person: Person, *, mfa: bool = False, session: Session | None = None) -> str:
        """What a browser does with the authorization URL: the person logs in and consents. The authorization code.

        Raises AssertionError for a URL that Globus Auth would refuse.
        """
        parts = urlsplit(url)
        assert url.startswith(self.url), f"{url} does not lead here"
        assert parts.path == "/v2/oauth2/authorize", parts.path
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        return self.give_code(query, person, session or self.session(person, mfa=mfa))

    def give_code(self, query: dict[str, str], person: Person, session: Session) -> str:
        """A code for the parameters of the authorization URL."""
        client = self.apps.get(query.get("client_id", ""))
        assert client is not None, "the client is not registered"
        assert query.get("response_type") == "code"
        assert client.secret or query.get("code_challenge_method") == "S256", "a native app needs PKCE (RFC 7636)"
        code = new_token()
        self.codes[code] = Code(
            person,
            client,
            tuple(query.get("scope", "").split()),
            session,
            query.get("code_challenge", ""),
            query.get("redirect_uri", ""),
            query.get("access_type") == "offline",
        )
        return code

    def server_of(self, scope: str) -> str:
        """The resource server that a scope belongs to: an application's id, or a name of Globus's own."""
        base = scope.partition("[")[0]
        for app in self.apps.values():
            if base == app.scope:
                return app.id
        return GROUPS if base == VIEW_GROUPS else "auth.globus.org"
