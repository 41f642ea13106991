"""Every shape of the configuration, parsed with Envoy's own protos: a misspelt field is found without Envoy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.cli.certs import ensure, ensure_envoy
from services.cli.settings import load
from services.edge.bootstrap import BOOTSTRAP, rendered
from services.edge.sds import KEY_FILE, key_file
from services.edge.writing import texts, write
from tests.testing.parts import requires_part
from tests.unit.edge.shapes import SHAPES

pytestmark = [requires_part("envoy"), requires_part("xds")]

WEFT = (sys.executable, "-m", "services.cli")
PARSE = Path(__file__).parent / "environment" / "parse.py"


def wrong_with(files: dict[str, Any]) -> dict[str, str]:
    """What the protos say of each file."""
    done = subprocess.run(
        [os.environ["WEFT_XDS_PYTHON"], "-P", str(PARSE)],
        input=json.dumps(files),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


def test_every_shape_is_known_to_the_protos() -> None:
    files = {f"{shape}/{name}": plain for shape, edge in SHAPES.items() for name, plain in rendered(edge).items()}
    files[KEY_FILE] = key_file("weft_key")
    assert {name: wrong for name, wrong in wrong_with(files).items() if wrong} == {}
    assert len(files) > 4 * len(SHAPES)


def test_a_misspelt_field_is_found_wherever_it_stands() -> None:
    listener = rendered(SHAPES["mutual"])
    manager = listener[BOOTSTRAP]["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    manager["typed_config"]["stream_idle_timeuot"] = "1s"
    cluster = rendered(SHAPES["mutual"])
    cluster[BOOTSTRAP]["static_resources"]["clusters"][0]["conect_timeout"] = "1s"
    secret = rendered(SHAPES["mutual"])["sds/front.yaml"]
    secret["resources"][0]["tls_certificat"] = {}
    told = wrong_with({"listener": listener[BOOTSTRAP], "cluster": cluster[BOOTSTRAP], "secret": secret})
    assert "stream_idle_timeuot" in told["listener"]
    assert "conect_timeout" in told["cluster"]
    assert "tls_certificat" in told["secret"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with every file that a shape names."""
    home = tmp_path_factory.mktemp("weft")
    config = load({"WEFT_HOME": str(home)})
    ensure(config, home / "certs")
    ensure_envoy(config, home / "certs", ("localhost",))
    made = {"front.pem": "envoy.pem", "front-key.pem": "envoy-key.pem"}
    for name in ("callers.pem", "facades.pem", "collector.pem"):
        made[name] = "ca.pem"
    for name, source in made.items():
        shutil.copy(home / "certs" / source, home / name)
    (home / "log").mkdir()
    return home


@pytest.mark.parametrize("shape", SHAPES)
def test_the_real_envoy_takes_every_shape(home: Path, shape: str) -> None:
    edge = replace(SHAPES[shape], home=home)
    write(texts({**rendered(edge), KEY_FILE: key_file("weft_key")}), edge.directory)
    command = [os.environ["WEFT_ENVOY"], "--mode", "validate", "-c", str(edge.directory / BOOTSTRAP)]
    done = subprocess.run([*command, "--log-level", "warning"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "eprecat" not in done.stderr


def test_an_operator_has_it_looked_at(home: Path) -> None:
    environ = {**os.environ, "WEFT_HOME": str(home), "WEFT_TLS__DIRECTORY": "certs"}

    def validate(**more: str) -> subprocess.CompletedProcess[str]:
        command = [*WEFT, "envoy", "validate"]
        return subprocess.run(command, env={**environ, **more}, check=False, capture_output=True, text=True)

    assert validate().stdout == "Envoy takes the configuration.\n"
    done = validate(WEFT_ENVOY__CLIENT_CA_FILE="certs/envoy-key.pem")
    assert (done.returncode, "cannot read authorities" in done.stderr) == (1, True)
    done = validate(WEFT_ENVOY__CERTIFICATE_FILE="certs/router.pem", WEFT_ENVOY__KEY_FILE="certs/envoy-key.pem")
    assert (done.returncode, "cannot show" in done.stderr) == (1, True)
    done = validate(WEFT_ENVOY__IDLE_S="1000000000000")  # longer than a protobuf duration may be
    assert (done.returncode, "Envoy refuses the configuration" in done.stderr) == (1, True)
