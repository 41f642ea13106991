"""Who we are to Globus: a service account, or the person who is logged in on this machine."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import globus_sdk
from globus_compute_sdk import Client
from globus_compute_sdk.sdk.auth.globus_app import DEFAULT_CLIENT_ID
from globus_compute_sdk.sdk.auth.token_storage import get_token_storage
from globus_sdk.token_storage import MemoryTokenStorage

from services.globus.errors import GlobusError, Kind, explain

CLIENT_ID: Final = "GLOBUS_COMPUTE_CLIENT_ID"
CLIENT_SECRET: Final = "GLOBUS_COMPUTE_CLIENT_SECRET"  # noqa: S105 - the name of a variable


class Named(Protocol):
    """Credentials as a configuration names them: a service account's id, and the file or the variable that has its
    secret. All empty: the variables of the SDK, else whoever is logged in.
    """

    @property
    def client_id(self) -> str:
        """The service account's id."""

    @property
    def client_secret_file(self) -> str:
        """The file that holds its secret."""

    @property
    def client_secret_env(self) -> str:
        """The variable that holds its secret."""


@dataclass(frozen=True, slots=True)
class Default:
    """The variables of the SDK, else whoever is logged in."""

    client_id: str = ""
    client_secret_file: str = ""
    client_secret_env: str = ""


def open_client(named: Named, *, environ: Mapping[str, str] = os.environ, may_ask: bool = False) -> Client:
    """A client of Globus Compute. Blocks: a service account has its token fetched here, so that wrong credentials are
    found now. `may_ask` lets a person who is not logged in do so at the terminal.

    Raises `GlobusError` of the kind BAD_CREDENTIALS, or SERVICE_UNAVAILABLE. No message holds a secret.
    """
    app = _app(named, environ)
    # The SDK warns of every node whose Python is another. Functions travel as source and what they are given as JSON,
    # for which it does not matter; where it does, the task fails and says so.
    warnings.filterwarnings("ignore", message="\\s*Environment differences detected", category=UserWarning)
    client = Client(app=app, do_version_check=False)
    try:
        if app.login_required():
            if isinstance(app, globus_sdk.UserApp) and not may_ask:
                raise _not_logged_in()
            app.login()
    except (globus_sdk.GlobusError, OSError) as error:
        raise explain(error) from error
    return client


def _app(named: Named, environ: Mapping[str, str]) -> globus_sdk.GlobusApp:
    client_id, secret = named.client_id, ""
    if client_id:
        secret = _secret(named, environ)
    elif named.client_secret_file or named.client_secret_env:
        raise _bad("The credentials have a secret and no 'client_id'.", "Set 'client_id' beside the secret.")
    else:
        client_id, secret = environ.get(CLIENT_ID, ""), environ.get(CLIENT_SECRET, "")
    if secret and not client_id:
        raise _bad(f"{CLIENT_SECRET} is set and {CLIENT_ID} is not.", "Set both, or neither to use a person's login.")
    environment = environ.get("GLOBUS_SDK_ENVIRONMENT")
    if secret:
        # Its tokens stay in memory: the secret is at hand for others, and a stored token would hide that it is wrong.
        config = globus_sdk.GlobusAppConfig(token_storage=MemoryTokenStorage())
        return globus_sdk.ClientApp(platform.node(), client_id=client_id, client_secret=secret, config=config)
    config = globus_sdk.GlobusAppConfig(token_storage=get_token_storage(environment), request_refresh_tokens=True)
    return globus_sdk.UserApp(platform.node(), client_id=client_id or DEFAULT_CLIENT_ID, config=config)


def _secret(named: Named, environ: Mapping[str, str]) -> str:
    if named.client_secret_file and named.client_secret_env:
        raise _bad("The credentials name a file and a variable with the secret.", "Name one of them.")
    if named.client_secret_file:
        file = Path(named.client_secret_file).expanduser()
        try:
            secret = file.read_text().strip()
        except OSError as error:
            raise _bad(f"The secret cannot be read from {file}: {error.strerror}.", "Put it there, readable.") from None
        except UnicodeDecodeError:
            raise _bad(f"{file} holds no secret: it is not text.", "Put the client's secret there.") from None
        where = str(file)
    else:
        where = named.client_secret_env or CLIENT_SECRET
        secret = environ.get(where, "")
    if not secret:
        raise _bad(f"There is no secret for the client {named.client_id}: {where} is empty.", "Put the secret there.")
    return secret


def _not_logged_in() -> GlobusError:
    return _bad(
        "Nobody is logged in to Globus on this machine, and no service account is set.",
        f"Set {CLIENT_ID} and {CLIENT_SECRET}, or log in with 'globus-compute-endpoint login', or by running 'weft"
        " functions register' at a terminal.",
    )


def _bad(sentence: str, remedy: str) -> GlobusError:
    return GlobusError(Kind.BAD_CREDENTIALS, sentence, remedy)
