"""What `weft up` traces: all, and it keeps it, unless the configuration says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.cli.local_mesh import LocalMesh
from services.cli.local_shape import Shape, place
from services.cli.parts import to_environ
from services.cli.settings import load
from services.cli.up import welcome
from services.runtime.config import ConfigError
from services.runtime.telemetry.config import TracingConfig


@pytest.mark.parametrize(
    ("given", "local", "ratio"),
    [({}, True, 1.0), ({"local": False}, False, 1.0), ({"ratio": 0.1}, True, 0.1), ({"ratio": 0}, True, 0.0)],
)
def test_weft_up(tmp_path: Path, given: dict[str, Any], local: bool, ratio: float) -> None:
    environ = {"WEFT_HOME": str(tmp_path), **to_environ({"tracing": given})}
    placed = to_environ({"tracing": place(load(environ), Shape(apart=True))["tracing"]})
    section = load({**environ, **placed}).section("tracing", TracingConfig)
    assert (section.on, section.local, section.sampling().ratio) == (local, local, ratio)


@pytest.mark.parametrize("kept", [True, False])
def test_weft_up_tells_of_weft_trace_where_that_has_something_to_show(tmp_path: Path, kept: bool) -> None:
    environ = {"WEFT_HOME": str(tmp_path), **to_environ({"tracing": {"local": kept}})}
    (tmp_path / "dev.key").write_text("key")
    mesh = LocalMesh(load(environ), Shape(apart=True), print)
    assert ("weft trace" in welcome(mesh, [])) == kept


def test_services_that_are_started_otherwise_trace_nothing_until_they_are_told(tmp_path: Path) -> None:
    section = load({"WEFT_HOME": str(tmp_path)}).section("tracing", TracingConfig)
    assert not section.on
    assert section.sampling().ratio == 0.01
    environ = {"WEFT_HOME": str(tmp_path), "WEFT_TRACING__ENDPOINT": "http://127.0.0.1:4317"}
    assert load(environ).section("tracing", TracingConfig).on


@pytest.mark.parametrize(
    "given", [{"ratio": 1.5}, {"ratio": -1}, {"forced_per_second": -1}, {"protocol": "udp"}, {"sample": 1}]
)
def test_what_cannot_be_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"tracing\."):
        load({"WEFT_HOME": str(tmp_path), **to_environ({"tracing": given})})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"endpoint": "collector:4317"}, "must be a URL such as http://127.0.0.1:4317"),
        ({"endpoint": "http://"}, "must be a URL"),
        ({"endpoint": "http://collector:99999"}, "must be a URL"),
        ({"endpoint": "http://[::1:4317"}, "must be a URL"),
        ({"endpoint": "https://collector/v1/traces?key=s3cret", "protocol": "http"}, "must be a URL"),
        ({"endpoint": "http://a:s3cret@b:4317"}, "must hold no password"),
        ({"endpoint": "http://b:4317/v1/traces"}, "set 'protocol' to http"),
    ],
)
def test_a_url_that_cannot_be_is_refused_by_every_command(tmp_path: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=r"tracing") as caught:
        load({"WEFT_HOME": str(tmp_path), **to_environ({"tracing": given})})
    assert told in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{"endpoint": "https://b"}, {"endpoint": "http://[::1]:4317"}, {"endpoint": "http://b/x", "protocol": "http"}],
)
def test_a_url_that_can_be(tmp_path: Path, given: dict[str, Any]) -> None:
    assert load({"WEFT_HOME": str(tmp_path), **to_environ({"tracing": given})}).section("tracing", TracingConfig).on
