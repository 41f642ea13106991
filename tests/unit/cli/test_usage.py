"""What `weft usage` and `weft audit` make of what they are given."""

import datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from services.cli.audit import app
from services.cli.periods import parse_moment
from services.cli.usage import app as usage
from services.cli.usage import print_csv
from services.runtime.audit import AuditLog

NOW = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@x", "\tx", " =cmd()", "\rx"])
def test_no_text_is_taken_for_a_formula(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(["model", "tokens"], [[text, -5], ["plain", 5]])
    told = capsys.readouterr().out
    assert f"'{text}" in told
    assert told.endswith("plain,5\n")
    assert ",-5\n" in told, "numbers stay numbers"


def test_moments() -> None:
    assert parse_moment("30d", NOW) == NOW - datetime.timedelta(days=30)
    assert parse_moment("90m", NOW) == NOW - datetime.timedelta(minutes=90)
    assert parse_moment("2026-11-01") == datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    assert parse_moment("999999w", NOW).year == 1970
    for wrong in ("yesterday", "30", "-3d", ""):
        with pytest.raises(typer.BadParameter):
            parse_moment(wrong)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--user", "ada"), "users/ada"),
        (("--since", "2026-11-02", "--until", "2026-11-01"), "is not after"),
        (("--by", "model", "--calls"), "choose one"),
    ],
)
def test_what_finds_nothing_is_refused_before_anybody_is_asked(flags: tuple[str, ...], words: str) -> None:
    told = CliRunner().invoke(usage, flags)
    assert told.exit_code == 2
    assert words in told.output


def test_exit_codes_of_the_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_HOME", str(tmp_path))
    run = CliRunner().invoke
    assert run(app, ["verify"]).exit_code == 2, "there is none"
    assert run(app, ["verify", str(tmp_path / "elsewhere.log")]).exit_code == 2
    file = tmp_path / "auth" / "audit.log"
    log = AuditLog(file)
    log.start()
    log.close()
    assert run(app, ["verify"]).exit_code == 0
    assert run(app, ["verify", "--expect", "f" * 64]).exit_code == 1
    assert run(app, ["verify", "--expect", "short"]).exit_code == 2
    assert '"seq": 2' in run(app, ["head", "--json"]).stdout
    file.write_text(file.read_text().replace("opened", "\\u001b[2J"))
    damaged = run(app, ["verify", str(file)])
    assert damaged.exit_code == 1
    assert f"{file}:2: changed" in damaged.stdout
    assert "\x1b" not in run(app, ["show"]).stdout, "a terminal obeys nothing that a caller chose"
