"""Which credential a command shows, and to whom."""

from pathlib import Path

import pytest

from services.cli.connection import read_key
from services.cli.failures import CommandError
from services.cli.settings import load
from services.runtime.config import Config, ConfigError


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"WEFT_HOME": str(tmp_path), "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}


@pytest.fixture
def config(environ: dict[str, str]) -> Config:
    return load(environ)


def test_the_key_of_this_home_goes_to_its_own_mesh_alone(config: Config, environ: dict[str, str]) -> None:
    (config.home / "dev.key").write_text("weft_of_this_home")
    assert read_key(config, environ) == "weft_of_this_home"
    with pytest.raises(CommandError):
        read_key(config, environ, elsewhere=True)
    assert read_key(config, {**environ, "WEFT_API_KEY": "weft_said"}, elsewhere=True) == "weft_said"


def test_no_credential_goes_to_a_gateway_in_the_clear(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="https://"):
        load({**environ, "WEFT_LOGIN__URL": "http://gateway.example.org"})
