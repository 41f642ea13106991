"""Which identity is used, and that its secret is never told."""

import warnings
from pathlib import Path

import globus_sdk
import pytest

from services.globus.credentials import CLIENT_ID, CLIENT_SECRET, Default, _app, open_client
from services.globus.errors import GlobusError, Kind

ID = "6a9b1d5e-0f0d-4c5d-9c1b-3f1f3a1d2b4c"


def refusal(named: Default, environ: dict[str, str]) -> str:
    with pytest.raises(GlobusError) as caught:
        open_client(named, environ=environ)
    assert caught.value.kind is Kind.BAD_CREDENTIALS
    assert "hidden-word" not in str(caught.value)
    return caught.value.sentence


@pytest.fixture(autouse=True)
def _compute_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOBUS_COMPUTE_USER_DIR", str(tmp_path / "compute"))
    monkeypatch.delenv(CLIENT_ID, raising=False)
    monkeypatch.delenv(CLIENT_SECRET, raising=False)


def test_a_service_account_by_file_by_variable_and_by_default(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hidden-word\n")
    for named, environ in (
        (Default(ID, client_secret_file=str(file)), {}),
        (Default(ID, client_secret_env="SITE_SECRET"), {"SITE_SECRET": "hidden-word"}),
        (Default(ID), {CLIENT_ID: "other", CLIENT_SECRET: "hidden-word"}),
        (Default(), {CLIENT_ID: ID, CLIENT_SECRET: "hidden-word"}),
    ):
        app = _app(named, environ)
        assert isinstance(app, globus_sdk.ClientApp)
        assert app.client_id == ID


def test_without_a_service_account_a_person(tmp_path: Path) -> None:
    assert isinstance(_app(Default(), {}), globus_sdk.UserApp)
    assert "Nobody is logged in" in refusal(Default(), {})


def test_another_python_on_the_node_is_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refusal(Default(), {})
        warnings.warn("\nEnvironment differences detected between local SDK and endpoint e", UserWarning, stacklevel=1)
        warnings.warn("another", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["another"]


def test_incomplete_credentials_are_refused(tmp_path: Path) -> None:
    empty, away, binary = tmp_path / "empty", tmp_path / "away", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe")
    secret = {CLIENT_SECRET: "hidden-word"}
    assert f"{empty} is empty" in refusal(Default(ID, client_secret_file=str(empty)), {})
    assert f"{away}: No such file" in refusal(Default(ID, client_secret_file=str(away)), {})
    assert "not text" in refusal(Default(ID, client_secret_file=str(binary)), {})
    assert "SITE_SECRET is empty" in refusal(Default(ID, client_secret_env="SITE_SECRET"), secret)
    assert "no 'client_id'" in refusal(Default(client_secret_env=CLIENT_SECRET), secret)
    assert f"{CLIENT_ID} is not" in refusal(Default(), secret)
    assert "a file and a variable" in refusal(Default(ID, str(empty), CLIENT_SECRET), secret)
