"""Mistakes in weft.yaml that would show late, or cost data, are refused by `weft config check` and by every service."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.config import app
from services.runtime.config import ConfigError


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("auth: {usage: {retention_days: 0}}", "auth.usage.retention_days"),
        ("auth: {usage: {retention_days: -1}}", "auth.usage.retention_days"),
        ("auth: {principals_retention_days: 0}", "auth.principals_retention_days"),
        ("router: {usage: {flush_s: -1}}", "router.usage.flush_s"),
        ("router: {usage: {flush_records: 0}}", "router.usage.flush_records"),
        ("router: {usage: {spool_bytes: 0}}", "router.usage.spool_bytes"),
    ],
)
def test_what_would_delete_records_or_never_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, setting: str
) -> None:
    (tmp_path / "weft.yaml").write_text(text)
    monkeypatch.setenv("WEFT_HOME", str(tmp_path))
    refusal = CliRunner().invoke(app, ["check"]).exception
    assert isinstance(refusal, ConfigError)
    assert f"'{setting}': expected" in str(refusal)
