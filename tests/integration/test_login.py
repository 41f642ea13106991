"""People and services log in at a stand-in of Globus Auth, through the real globus-sdk, and call a real mesh."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from services.cli.connection import read_key
from services.cli.failures import CommandError
from services.cli.globus_login import fresh_token, log_in, log_out
from services.cli.login_store import Login, LoginStore, login_folder
from services.cli.settings import load
from services.runtime.config import Config
from tests.testing.globus_auth import App, GlobusAuth, Person
from tests.testing.mesh import StartMesh
from tests.testing.processes import SOON


@dataclass(slots=True)
class Site:
    """A gateway and a native app at Globus Auth, and a person; `environ` is what a command of hers sees."""

    globus: GlobusAuth
    gateway: App
    native: App
    alice: Person
    environ: dict[str, str]
    urls: list[str] = field(default_factory=list)

    @property
    def config(self) -> Config:
        return load(self.environ)

    @property
    def store(self) -> LoginStore:
        return LoginStore(login_folder(self.environ))

    def browse(self, url: str) -> str:
        self.urls.append(url)
        return self.globus.consent(url, self.alice)

    def log_in(self, *, force: bool = False) -> Login:
        return log_in(self.config, self.browse, force=force, environ=self.environ)

    def age(self) -> None:
        """Lets the access token be about to expire."""
        login = self.store.read()
        assert login is not None
        old = Login(login.client_id, login.scope, login.access_token, login.refresh_token, 0.0)
        self.store.write(old)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with GlobusAuth() as globus:
        gateway, native = globus.add_app("weft", secret="s3cret"), globus.add_app("weft-cli")
        for name, value in globus.environ.items():
            monkeypatch.setenv(name, value)
        environ = {
            "PATH": os.environ["PATH"],
            "WEFT_HOME": str(tmp_path / "home"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "WEFT_LOGIN__CLIENT_ID": native.id,
            "WEFT_LOGIN__SCOPE": gateway.scope,
            **globus.environ,
        }
        yield Site(globus, gateway, native, globus.add_person("alice@anl.gov"), environ)


def weft(*arguments: str, environ: dict[str, str], given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(command, env=environ, input=given, capture_output=True, text=True, timeout=SOON, check=False)


def test_a_login_gives_a_token_for_the_gateway_alone(site: Site) -> None:
    login = site.log_in()
    assert fresh_token(site.config, site.environ) == login.access_token
    grant = site.globus.tokens[login.access_token]
    assert (grant.owner, grant.client, grant.scopes) == (site.alice, site.native, (site.gateway.scope,))
    file = login_folder(site.environ) / "login.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert login.access_token not in repr(login)
    assert login.refresh_token not in repr(login)
    query = parse_qs(urlsplit(site.urls[0]).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["access_type"] == ["offline"]
    assert "prompt" not in query


def test_force_asks_for_what_the_gateway_wants_of_a_session(site: Site) -> None:
    site.environ["WEFT_LOGIN__REQUIRED_DOMAIN"] = "anl.gov"
    site.environ["WEFT_LOGIN__REQUIRED_MFA"] = "true"
    site.environ["WEFT_LOGIN__REQUIRED_POLICIES"] = "[0a0a0a0a-0000-4000-8000-000000000000]"
    site.log_in(force=True)
    query = parse_qs(urlsplit(site.urls[0]).query)
    assert query["prompt"] == ["login"]
    assert query["session_required_single_domain"] == ["anl.gov"]
    assert query["session_required_policies"] == ["0a0a0a0a-0000-4000-8000-000000000000"]
    assert query["session_required_mfa"] == ["True"]


def test_an_old_token_is_refreshed_once_by_many(site: Site) -> None:
    first = site.log_in()
    site.age()
    before = site.globus.requests["/v2/oauth2/token"]
    tokens: list[str] = []
    threads = [threading.Thread(target=lambda: tokens.append(fresh_token(site.config, site.environ))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == 4
    assert len(set(tokens)) == 1
    assert tokens[0] != first.access_token
    assert site.globus.requests["/v2/oauth2/token"] == before + 1


def test_an_outage_is_told_and_keeps_the_login(site: Site) -> None:
    login = site.log_in()
    site.age()
    site.globus.fail("/v2/oauth2/token", 503)
    with pytest.raises(CommandError, match="status 503") as caught:
        fresh_token(site.config, site.environ)
    assert login.refresh_token not in str(caught.value)
    site.globus.heal()
    assert fresh_token(site.config, site.environ)


def test_a_login_that_was_revoked_elsewhere_has_ended(site: Site) -> None:
    login = site.log_in()
    site.age()
    site.globus.revoke(login.refresh_token)
    with pytest.raises(CommandError, match="weft login"):
        fresh_token(site.config, site.environ)


def test_logging_out_revokes(site: Site) -> None:
    login = site.log_in()
    assert log_out(site.config, site.environ)
    assert login.access_token not in site.globus.tokens
    assert login.refresh_token not in site.globus.refresh_tokens
    assert not log_out(site.config, site.environ)
    with pytest.raises(CommandError, match="weft login"):
        fresh_token(site.config, site.environ)


def test_a_login_for_another_gateway_is_none(site: Site) -> None:
    site.log_in()
    site.environ["WEFT_LOGIN__SCOPE"] = "https://auth.globus.org/scopes/another/all"
    with pytest.raises(CommandError, match="not logged in"):
        fresh_token(site.config, site.environ)


def test_a_service_logs_in_by_itself(site: Site, tmp_path: Path) -> None:
    robot = site.globus.add_app("robot", secret="robots-secret")
    secret = tmp_path / "robot.secret"
    secret.write_text("robots-secret\n")
    site.environ |= {"WEFT_CLIENT_ID": robot.id, "WEFT_CLIENT_SECRET_FILE": str(secret)}
    assert site.globus.tokens[fresh_token(site.config, site.environ)].owner is robot
    secret.write_text("wrong-secret")
    with pytest.raises(CommandError) as caught:
        fresh_token(site.config, site.environ)
    assert "wrong-secret" not in str(caught.value)
    del site.environ["WEFT_CLIENT_SECRET_FILE"]
    with pytest.raises(CommandError, match="WEFT_CLIENT_SECRET_FILE"):
        fresh_token(site.config, site.environ)


def test_commands_use_a_key_before_the_login(site: Site) -> None:
    login = site.log_in()
    assert read_key(site.config, site.environ) == login.access_token
    home = Path(site.environ["WEFT_HOME"])
    home.mkdir()
    (home / "dev.key").write_text("weft_dev_key\n")
    assert read_key(site.config, site.environ) == "weft_dev_key"
    assert read_key(site.config, {**site.environ, "WEFT_API_KEY": "weft_own_key"}) == "weft_own_key"


def test_without_a_configuration_it_is_said_what_is_missing(site: Site) -> None:
    for name, setting in (("WEFT_LOGIN__CLIENT_ID", "login.client_id"), ("WEFT_LOGIN__SCOPE", "login.scope")):
        answer = weft("login", "--no-browser", environ={**site.environ, name: ""})
        assert answer.returncode == 1
        assert setting in answer.stderr


async def test_whoever_logged_in_calls_the_mesh(
    site: Site, start_mesh: StartMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "gateway.secret"
    secret.write_text(site.gateway.secret)
    policy = {"allowed_domains": ["anl.gov"], "administrators": ["users/alice@anl.gov"]}
    globus = {"client_id": site.gateway.id, "client_secret_file": str(secret), "ask_groups": False}
    mesh = await start_mesh(workers=0, auth={"globus": globus, "policy": policy})
    # Her own machine, where the mesh's home, with its keys, is not.
    environ = {name: value for name, value in {**mesh.environ, **site.environ}.items() if "KEY" not in name}

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "login", "--no-browser"),
        env=environ,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    shown = ""
    async with asyncio.timeout(SOON):
        while (match := re.search(r"^(http\S+)$", shown, re.MULTILINE)) is None:
            line = await process.stderr.readline()
            assert line, shown
            shown += line.decode()
    out, _ = await process.communicate(f"{site.browse(match[1])}\n".encode())
    assert process.returncode == 0
    assert out == b""

    printed = await asyncio.to_thread(weft, "token", environ=environ)
    assert printed.stdout.strip() in site.globus.tokens
    told = await asyncio.to_thread(weft, "whoami", "--json", environ=environ)
    assert json.loads(told.stdout)["username"] == "alice@anl.gov", told.stderr
    keys = await asyncio.to_thread(weft, "keys", "list", "--json", environ=environ)
    assert keys.returncode == 0, keys.stderr  # she administers
    ended = await asyncio.to_thread(weft, "logout", environ=environ)
    assert ended.returncode == 0
    assert not site.globus.refresh_tokens
