"""The section `tls`: whose certificate is whose, and what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from services.core.errors import ServiceError
from services.runtime.tls import TlsConfig


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with all certificates."""
    result = CliRunner().invoke(app, ("certs", "create"), env={"WEFT_HOME": str(tmp_path)})
    assert result.exit_code == 0, result.output
    return tmp_path


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(ServiceError) as caught:
        make()
    return caught.value.message


def test_without_a_directory_all_is_plain(tmp_path: Path) -> None:
    wire = TlsConfig().wire("router", tmp_path)
    assert (wire.secure, wire.credentials) == (None, None)
    (tmp_path / "service.key").write_text("a key\n")
    assert wire.service_key(tmp_path / "service.key")() == "a key"


def test_each_part_has_its_own_and_sends_no_key(home: Path) -> None:
    tls = TlsConfig(directory="certs")
    for part in ("router", "registry", "auth", "facade", "launcher", "admin"):
        wire = tls.wire(part, home)
        assert wire.secure is not None
        assert wire.secure.certificate.current().chain == (home / "certs" / f"{part}.pem").read_bytes()
        assert wire.service_key(home / "service.key")() == ""


def test_what_is_wrong_is_told(home: Path) -> None:
    of_router = TlsConfig(directory="certs", certificate_file="router.pem", key_file="router-key.pem")
    assert of_router.wire("admin", home).secure is not None
    assert "is not for spiffe://weft/weft/auth" in refusal(lambda: of_router.wire("auth", home))
    other = TlsConfig(directory="certs", trust_domain="example.org")
    assert "is not for spiffe://example.org/weft/router" in refusal(lambda: other.wire("router", home))
    absent = TlsConfig(directory="nowhere")
    assert "'weft certs create'" in refusal(lambda: absent.wire("router", home))
    wrong = TlsConfig(directory="certs", trust_domain="Weft/x")
    assert "'tls.trust_domain' must be" in refusal(lambda: wrong.wire("admin", home))
    envoy = TlsConfig(directory="certs", envoy_ids=("spiffe://other/envoy",))
    assert "'tls.envoy_ids' must be" in refusal(lambda: envoy.wire("router", home))


def test_a_configuration_shows_no_key(home: Path) -> None:
    wire = TlsConfig(directory="certs").wire("router", home)
    secret = (home / "certs" / "router-key.pem").read_text().splitlines()[1]
    assert wire.secure is not None
    assert secret not in f"{wire!r} {wire.secure!r} {wire.secure.certificate.current()!r}"
