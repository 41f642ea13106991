"""A stand-in of Globus Auth and Globus Groups that speaks their wire format; the real globus-sdk is its client.

    with GlobusAuth() as globus:
        weft = globus.add_app("weft", secret="s3cret")      # the confidential application, a resource server too
        cli = globus.add_app("weft-cli")                    # a native application, for `weft login`
        alice = globus.add_person("alice@anl.gov", "alice@gmail.com")   # linked identities, the primary one first
        group = globus.join(alice)
        os.environ.update(globus.environ)                   # or the environment of another process

        token = globus.token(alice, weft)                   # without a browser; weft.scope is its scope
        globus.token(alice, weft, session=globus.session(alice, age=7200, mfa=True))
        globus.token(robot_app, weft)                       # an application as owner: a service account
        code = globus.consent(authorize_url, alice)         # what a browser does with the authorization URL
        globus.browser = alice                              # … or over HTTP: GET authorize redirects with the code

        globus.fail("/v2/groups", 503); globus.fail("/v2/oauth2", 0); globus.heal()     # outages; 0 hangs up
        globus.hold("/v2/oauth2"); globus.until_held(); globus.release()                 # latency
        globus.requests["/v2/oauth2/token/introspect"]                                   # how often it was asked

It serves on a thread of its own, at `globus.url`. Formats: https://docs.globus.org/api/auth/reference/ and
https://docs.globus.org/api/auth/sessions/, and the globus-sdk's own recorded answers (`globus_sdk.testing.data`).
It does without consents, and every person's effective identity is their primary one.
"""

from tests.testing.globus_auth.records import (
    GROUPS,
    REFEDS_MFA,
    VIEW_GROUPS,
    App,
    Identity,
    Person,
    Session,
)
from tests.testing.globus_auth.stand_in import GlobusAuth

__all__ = ["GROUPS", "REFEDS_MFA", "VIEW_GROUPS", "App", "GlobusAuth", "Identity", "Person", "Session"]
