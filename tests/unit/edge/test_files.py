"""The rendered files: written whole, compared, and those of deploy/envoy as they should be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from services.edge.bootstrap import BOOTSTRAP, rendered
from services.edge.sds import KEY_FILE
from services.edge.writing import difference, texts, write
from tests.unit.edge.shapes import SHAPES

DEPLOYED = Path(__file__).resolve().parents[3] / "deploy" / "envoy"
FILES = texts(rendered(SHAPES["mutual"]))


def weft(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command with the configuration of deploy/envoy."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    command = [sys.executable, "-m", "services.cli", "--config", str(DEPLOYED / "weft.yaml"), "envoy", *arguments]
    return subprocess.run(command, env=ours, check=False, capture_output=True, text=True)


def test_what_is_written_is_as_rendered(tmp_path: Path) -> None:
    write(FILES, tmp_path)
    assert difference(FILES, tmp_path) == ""
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {Path(name).name for name in FILES}


def test_every_difference_is_told(tmp_path: Path) -> None:
    write(FILES, tmp_path)
    bootstrap = tmp_path / BOOTSTRAP
    bootstrap.write_text(bootstrap.read_text().replace("node:", "knot:"))
    (tmp_path / "sds" / "mesh.yaml").unlink()
    (tmp_path / "sds" / "old.yaml").write_text("left: behind\n")
    told = difference(FILES, tmp_path)
    assert "-knot:" in told
    assert "+node:" in told
    assert "sds/mesh.yaml (rendered)" in told
    assert "-left: behind" in told


def test_the_key_is_no_difference(tmp_path: Path) -> None:
    """It is written when Envoy is run, and is nobody's to compare."""
    write({**FILES, KEY_FILE: "key\n"}, tmp_path, mode=0o600)
    assert difference(FILES, tmp_path) == ""
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_what_lies_in_deploy_is_up_to_date() -> None:
    done = weft("check", str(DEPLOYED / BOOTSTRAP))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n'make envoy' writes it anew."


def test_a_stale_file_fails_with_a_diff(tmp_path: Path) -> None:
    shutil.copytree(DEPLOYED, tmp_path / "envoy")
    (tmp_path / "envoy" / BOOTSTRAP).write_text("stale: true\n")
    done = weft("render", "--check", "--out", str(tmp_path / "envoy"))
    assert done.returncode == 1
    assert "-stale: true" in done.stdout
    assert "weft envoy render" in done.stderr


def test_all_is_printed() -> None:
    done = weft("render", "--out", "-")
    assert done.returncode == 0
    assert done.stdout.count("--- # ") == len(list(DEPLOYED.rglob("*.yaml"))) - 1  # weft.yaml itself
