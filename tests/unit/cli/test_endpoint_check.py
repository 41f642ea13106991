"""What `weft endpoints check` refuses before it asks the agent's package, and how a finding reads."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.endpoints import app
from services.cli.failures import CommandError


def refused(*arguments: str) -> str:
    error = CliRunner().invoke(app, ["check", *arguments]).exception
    assert isinstance(error, CommandError)
    return str(error)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("")
    return tmp_path


def test_a_folder_that_is_no_endpoint(tmp_path: Path) -> None:
    assert "is no endpoint directory: it has no config.yaml" in refused(str(tmp_path))
    assert "is no endpoint directory" in refused(str(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    assert "is no endpoint directory" in refused(str(tmp_path / "file"))


def test_functions_that_cannot_be_read(folder: Path) -> None:
    assert "Cannot read none.yaml: No such file" in refused(str(folder), "--functions", "none.yaml")
    (folder / "functions.yaml").write_text("about: a site\n")
    said = refused(str(folder), "--functions", str(folder / "functions.yaml"))
    assert "is not as 'weft functions register' writes it" in said


@pytest.mark.parametrize(("text", "said"), [("walltime", "KEY=VALUE"), ("walltime=[", "--set walltime is not YAML")])
def test_a_variable_that_is_none(folder: Path, text: str, said: str) -> None:
    assert said in refused(str(folder), "--set", text)


def test_a_python_that_is_none(folder: Path) -> None:
    assert "Cannot run /none: No such file" in refused(str(folder), "--python", "/none")
