"""Logs people, and services, in at Globus Auth, and keeps their tokens fresh.

People go through the flow of native apps (RFC 8252 with PKCE, RFC 7636): the browser shows a code, which they paste.
The globus-sdk blocks, and is imported when it is needed: it takes half a second.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.cli.failures import CommandError
from services.cli.login_config import NO_APPLICATION, LoginConfig, Service, scope_of, service_of
from services.cli.login_store import Login, LoginStore, login_folder
from services.runtime.config import Config

if TYPE_CHECKING:
    import globus_sdk

FRESH_FOR: Final = 300.0
"""Seconds that a token lives at least when it is given: long enough for what is begun with it."""

_NO_SDK: Final = "This needs the globus-sdk: run \"pip install 'weft[globus]'\"."
_LOG_IN: Final = "run 'weft login'"

Ask = Callable[[str], str]
"""Shows a person the URL to open, and gives the code that they bring back."""


def log_in(config: Config, ask: Ask, *, force: bool, environ: Mapping[str, str] = os.environ) -> Login:
    """Has a person log in, and keeps what that gives. With `force`, they prove themselves anew, as the policies of the
    gateway ask. Raises `CommandError`.
    """
    section, scope = config.section("login", LoginConfig), scope_of(config)
    client = _native(section)
    client.oauth2_start_flow(requested_scopes=scope, refresh_tokens=True, prefill_named_grant=socket.gethostname())
    code = ask(client.oauth2_get_authorize_url(**_session(section) if force else {})).strip()
    if not code:
        raise CommandError(f"No code was given; {_LOG_IN} again.")
    with _explained(f"Globus Auth does not take this code; {_LOG_IN} again"):
        answer = client.oauth2_exchange_code_for_tokens(code)
    login = _login(section.client_id, scope, answer.by_resource_server)
    store = LoginStore(login_folder(environ))
    with store.locked():
        store.write(login)
    return login


def fresh_token(config: Config, environ: Mapping[str, str] = os.environ) -> str:
    """An access token that is good for a while: a service's own if the environment names one, else that of whoever has
    logged in. Raises `CommandError`.
    """
    if (service := service_of(environ)) is not None:
        return _token_of_service(service, scope_of(config))
    section, scope = config.section("login", LoginConfig), scope_of(config)
    store = LoginStore(login_folder(environ))
    if not _is_fresh(login := _own(store.read(), section, scope)):
        with store.locked():
            # Another command may have refreshed it meanwhile.
            if not _is_fresh(login := _own(store.read(), section, scope)):
                login = _refreshed(login, section)
                store.write(login)
    return login.access_token


def log_out(config: Config, environ: Mapping[str, str] = os.environ) -> bool:
    """Revokes the login's tokens and forgets them. False if there was no login. Raises `CommandError` where Globus
    Auth cannot be told; it is forgotten all the same.
    """
    store = LoginStore(login_folder(environ))
    with store.locked():
        login = store.read()
        if login is None:
            return False
        store.remove()
    client = _native(LoginConfig(client_id=login.client_id))
    with _explained("The login is forgotten here, but could not be revoked; revoke it at https://app.globus.org"):
        for token in (login.refresh_token, login.access_token):
            client.oauth2_revoke_token(token)
    return True


def _own(login: Login | None, section: LoginConfig, scope: str) -> Login:
    if login is None or login.scope != scope or (section.client_id and login.client_id != section.client_id):
        raise CommandError(f"You are not logged in; {_LOG_IN}.")
    return login


def _is_fresh(login: Login) -> bool:
    return login.expires_at - time.time() > FRESH_FOR


def _refreshed(login: Login, section: LoginConfig) -> Login:
    client = _native(LoginConfig(client_id=login.client_id))
    with _explained(f"Your login has ended; {_LOG_IN} again"):
        answer = client.oauth2_refresh_token(login.refresh_token)
    return _login(login.client_id, login.scope, answer.by_resource_server, login.refresh_token)


def _token_of_service(service: Service, scope: str) -> str:
    sdk = _sdk()
    secret = Path(service.secret_file).expanduser().read_text().strip()
    client = sdk.ConfidentialAppAuthClient(service.client_id, secret, app_name="weft")
    with _explained("Globus Auth does not take WEFT_CLIENT_ID with this secret; look at the service account there"):
        answer = client.oauth2_client_credentials_tokens(requested_scopes=scope)
    return str(_of_scope(scope, answer.by_resource_server)["access_token"])


def _login(client_id: str, scope: str, given: Mapping[str, Mapping[str, Any]], refresh: str = "") -> Login:
    told = _of_scope(scope, given)
    refresh = told.get("refresh_token") or refresh
    return Login(client_id, scope, str(told["access_token"]), str(refresh), float(told["expires_at_seconds"]))


def _of_scope(scope: str, given: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    for told in given.values():
        if scope in str(told["scope"]).split():
            return told
    raise CommandError(f"Globus Auth gave no token for {scope}; look at 'login.scope' in weft.yaml.")


def _session(section: LoginConfig) -> dict[str, Any]:
    """What Globus Auth asks of the person; see "Sessions" in its documentation."""
    asked: dict[str, Any] = {"prompt": "login"}
    if section.required_domain:
        asked["session_required_single_domain"] = section.required_domain
    if section.required_policies:
        asked["session_required_policies"] = list(section.required_policies)
    if section.required_mfa:
        asked["session_required_mfa"] = True
    return asked


def _native(section: LoginConfig) -> globus_sdk.NativeAppAuthClient:
    if not section.client_id:
        raise CommandError(NO_APPLICATION)
    client: globus_sdk.NativeAppAuthClient = _sdk().NativeAppAuthClient(section.client_id, app_name="weft")
    return client


def _sdk() -> Any:
    try:
        import globus_sdk
    except ModuleNotFoundError as error:
        raise CommandError(_NO_SDK) from error
    return globus_sdk


@contextmanager
def _explained(refused: str) -> Iterator[None]:
    """Tells the SDK's errors in one sentence each; nothing of the SDK's own, which may quote what was sent."""
    sdk = _sdk()
    try:
        yield
    except sdk.AuthAPIError as error:
        if error.http_status < 500:
            raise CommandError(f"{refused}.") from None
        raise CommandError(f"Globus Auth fails (status {error.http_status}); try again later.") from None
    except sdk.NetworkError:
        raise CommandError("Globus Auth cannot be reached; look at your network, and try again.") from None
