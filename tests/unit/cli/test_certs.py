"""`weft certs`: what it makes, and what it leaves as it is."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from services.cli.app import app
from services.cli.certificate_authority import read_certificates, spiffe_ids
from services.cli.failures import explain
from services.rpc.peer import PARTS

Weft = Callable[..., str]


@pytest.fixture
def weft(tmp_path: Path) -> Weft:
    """Runs a command in a home of the test's own; gives what it says, or why it failed."""

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments, env={"WEFT_HOME": str(tmp_path)})
        if isinstance(result.exception, Exception):
            return explain(result.exception)
        return result.output

    return run


def names(certificate: x509.Certificate) -> list[str]:
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [
        *alternatives.get_values_for_type(x509.DNSName),
        *map(str, alternatives.get_values_for_type(x509.IPAddress)),
    ]


def uses(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_every_part_has_its_certificate_of_one_authority(weft: Weft, tmp_path: Path) -> None:
    weft("certs", "create", "--host", "gateway.example.org", "--days", "30")
    folder = tmp_path / "certs"
    (ca,) = read_certificates(folder / "ca.pem")
    for part in PARTS:
        (certificate,) = read_certificates(folder / f"{part}.pem")
        certificate.verify_directly_issued_by(ca)
        assert spiffe_ids(certificate) == [f"spiffe://weft/weft/{part}"]
        assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
        assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 30
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.glob("*-key.pem")} == {0o600}
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        f"{name}{kind}.pem" for name in (*PARTS, "ca") for kind in ("", "-key")
    )
    (router,) = read_certificates(folder / "router.pem")
    assert names(router) == ["router.weft.weft", "localhost", "gateway.example.org", "127.0.0.1", "::1"]
    assert uses(router) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    for client in ("facade", "worker", "admin"):
        (certificate,) = read_certificates(folder / f"{client}.pem")
        assert (names(certificate), uses(certificate)) == ([], {ExtendedKeyUsageOID.CLIENT_AUTH})


def test_renewing_keeps_the_authority_and_the_others(weft: Weft, tmp_path: Path) -> None:
    weft("certs", "create")
    folder = tmp_path / "certs"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    weft("certs", "create", "--part", "router")
    changed = {file.name for file in folder.iterdir() if file.read_bytes() != before[file.name]}
    assert changed == {"router.pem", "router-key.pem"}


def test_a_new_authority_leaves_the_old_one_trusted(weft: Weft, tmp_path: Path) -> None:
    weft("certs", "create")
    (old,) = read_certificates(tmp_path / "certs" / "ca.pem")
    weft("certs", "create", "--new-ca")
    new, kept = read_certificates(tmp_path / "certs" / "ca.pem")
    assert (kept == old, new == old) == (True, False)
    read_certificates(tmp_path / "certs" / "router.pem")[0].verify_directly_issued_by(new)


def test_the_authoritys_key_is_kept_apart(weft: Weft, tmp_path: Path) -> None:
    key = tmp_path / "safe" / "ca.key"
    weft("certs", "create", "--ca-key", str(key))
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not (tmp_path / "certs" / "ca-key.pem").exists()
    assert "say with --ca-key where it is kept" in weft("certs", "issue", "spiffe://weft/users/alice")
    assert "alice.pem, good for 90 days" in weft("certs", "issue", "spiffe://weft/users/alice", "--ca-key", str(key))


def test_a_callers_certificate(weft: Weft, tmp_path: Path) -> None:
    weft("certs", "create", "--part", "router")
    weft("certs", "issue", "spiffe://weft/users/alice")
    (alice,) = read_certificates(tmp_path / "certs" / "users-alice.pem")
    assert (spiffe_ids(alice), names(alice)) == (["spiffe://weft/users/alice"], [])
    assert uses(alice) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    shown = json.loads(weft("certs", "show", "--json"))
    assert [(row["file"], row["spiffe_id"]) for row in shown] == [
        ("ca.pem", "spiffe://weft"),
        ("router.pem", "spiffe://weft/weft/router"),
        ("users-alice.pem", "spiffe://weft/users/alice"),
    ]
    assert "PRIVATE" not in weft("certs", "show")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("spiffe://other/users/alice",), "looks like spiffe://weft/users/alice"),
        (("users/alice",), "looks like spiffe://weft/users/alice"),
        (("spiffe://weft/weft/admin",), "make them with 'weft certs create --part'"),
        (("spiffe://weft/router",), "give another --name"),
        (("spiffe://weft/users/x", "--name", "ca"), "give another --name"),
        (("spiffe://weft/users/x", "--name", "ca-key"), "give another --name"),
        (("spiffe://weft/users/x", "--name", "../x"), "give another --name"),
        (
            ("spiffe://weft/users/x", "--host", "Router.weft.weft"),
            "is a name by which parts of the mesh know each other",
        ),
        (("spiffe://weft/users/x", "--host", "*.weft.weft."), "is a name by which parts of the mesh know each other"),
    ],
)
def test_what_is_not_issued(weft: Weft, arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    weft("certs", "create", "--part", "facade")
    before = sorted(tmp_path.rglob("*"))
    assert sentence in weft("certs", "issue", *arguments)
    assert sorted(tmp_path.rglob("*")) == before
