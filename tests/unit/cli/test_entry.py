"""The command's first steps: help without imports, errors in a sentence."""

import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import pytest

from services.cli.app import COMMANDS
from services.cli.entry import run
from services.cli.failures import CommandError, explain
from services.core.errors import Reason, ServiceError


def test_every_command_of_the_help_exists() -> None:
    for command in COMMANDS:
        if command != "worker":  # entry.py hands it on before
            assert import_module(f"services.cli.{command}").app is not None


def test_the_worker_and_the_help_import_nothing_that_they_do_not_need() -> None:
    program = (
        "import sys; from services.cli.entry import run\n"
        "try: run(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    for arguments, absent in (
        (["worker", "--help"], {"typer", "rich", "yaml"}),
        (["--help"], {"grpc", "rich", "aiohttp"}),
    ):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
        assert "sage: weft" in done.stdout
        assert not absent & set(done.stderr.split())


def test_an_error_is_one_sentence_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_CONFIG", "/no/such/weft.yaml")
    assert run(["config", "check"]) == 1
    assert capsys.readouterr().err == (
        "weft: Cannot read the configuration /no/such/weft.yaml: No such file or directory.\n"
    )


def test_a_wrong_flag_exits_as_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(["up", "--wrokers", "2"])
    assert end.value.code == 2
    assert "--workers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (CommandError("No."), "No."),
        (ServiceError(Reason.NO_WORKER), "No worker serves this model at present; try again shortly."),
        (FileNotFoundError(2, "No such file", "a.json"), "a.json: No such file"),
    ],
)
def test_an_error_that_we_know_says_all(error: Exception, sentence: str) -> None:
    assert explain(error) == sentence


def test_a_fault_of_ours_keeps_its_traceback_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sentence = explain(KeyError("surprise"))
    (file,) = tmp_path.iterdir()
    assert sentence.startswith("This is a fault of Weft itself: KeyError: 'surprise'.")
    assert str(file) in sentence
    assert "KeyError: 'surprise'" in file.read_text()
