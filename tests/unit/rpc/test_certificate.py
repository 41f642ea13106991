"""Certificates as files: what is refused at the start, and what is kept when they change."""

import logging
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.core.errors import Reason, ServiceError
from services.rpc.certificate import Certificate, CertificateFiles
from tests.testing.certificates import DAY, Authority

ID = "spiffe://weft/weft/router"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> CertificateFiles:
    return CertificateFiles(*authority.issue(ID, lasts=90 * DAY), authority.file)


def touch(files: CertificateFiles, later: float) -> None:
    """Files of a coarse clock would seem unchanged."""
    stamp = time.time() + later
    os.utime(files.certificate, (stamp, stamp))


def test_what_is_not_renewed_is_the_same_object(files: CertificateFiles) -> None:
    certificate = Certificate(files)
    assert certificate.current() is certificate.current()


def test_what_is_renewed_is_taken_up(files: CertificateFiles, authority: Authority) -> None:
    certificate = Certificate(files)
    before = certificate.current()
    authority.issue(ID)
    touch(files, 10)
    after = certificate.current()
    assert after is not before
    assert after.chain == files.certificate.read_bytes()


@pytest.mark.parametrize("half", ["certificate", "key", "authorities", "key of another", "gone", "expired"])
def test_what_is_half_written_is_told_and_not_taken_up(
    files: CertificateFiles, authority: Authority, half: str, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(files)
    before = certificate.current()
    whole = files.certificate.read_bytes(), files.key.read_bytes()
    assert files.ca is not None
    if half == "certificate":
        files.certificate.write_bytes(whole[0][:100])
    elif half == "key":
        files.key.write_bytes(whole[1][:100])
    elif half == "authorities":
        files.ca.write_bytes(files.ca.read_bytes() * 2)
        files.ca.write_bytes(files.ca.read_bytes()[:-100])
    elif half == "key of another":
        files.key.write_bytes(authority.issue(ID, file="other")[1].read_bytes())
    elif half == "gone":
        files.key.unlink()
    else:
        authority.issue(ID, lasts=timedelta(seconds=-1))
    touch(files, 10)
    with caplog.at_level(logging.WARNING):
        assert certificate.current() is before
        assert certificate.current() is before
    assert [record.getMessage()[:35] for record in caplog.records] == ["the certificate is kept as it was: "]
    authority.issue(ID)
    files.ca.write_bytes(
        authority.file.read_bytes().split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
    )
    touch(files, 20)
    assert certificate.current() is not before


def test_a_bundle_that_is_cut_off_is_no_good(tmp_path: Path) -> None:
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(first.file.read_bytes() + second.file.read_bytes()[:-60])
    with pytest.raises(ServiceError, match="is cut off"):
        Certificate(CertificateFiles(*first.issue(ID), bundle))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path / "a.pem", tmp_path / "a-key.pem", remedy="; do something")
    with pytest.raises(ServiceError) as caught:
        Certificate(files)
    assert (caught.value.reason, caught.value.param) == (Reason.ARGUMENT_INVALID, "tls.certificate_file")
    assert caught.value.message.endswith("cannot be read: no such file or directory; do something.")


def test_the_end_is_told_two_weeks_before_once_a_day(files: CertificateFiles, caplog: pytest.LogCaptureFixture) -> None:
    now = time.time()
    certificate = Certificate(files, lambda: now)
    with caplog.at_level(logging.WARNING):
        certificate.current()
        assert caplog.records == []
        now += 80 * 86400.0
        certificate.current()
        certificate.current()
        assert [record.getMessage() for record in caplog.records] == [
            f"the certificate {files.certificate} expires in 9 days; renew it"
        ]
        now += 86400.0
        certificate.current()
        now += 20 * 86400.0
        certificate.current()
    assert [record.getMessage().rpartition("server.pem ")[2] for record in caplog.records[1:]] == [
        "expires in 8 days; renew it",
        "has expired; renew it",
    ]
    expiry = REGISTRY.get_sample_value("weft_certificate_expiry_seconds", {"file": str(files.certificate)})
    assert expiry is not None
    assert -11.1 * 86400 < expiry < -10.9 * 86400


def test_no_key_is_shown(files: CertificateFiles) -> None:
    certificate = Certificate(files)
    shown = f"{certificate!r} {certificate.current()!r} {files!r} {vars(certificate)!r}"
    assert "PRIVATE KEY" not in shown
    assert files.key.read_text().splitlines()[1] not in shown


def test_a_certificate_for_another_is_no_good(authority: Authority) -> None:
    host = "router.weft.weft"
    files = CertificateFiles(*authority.issue(ID, host), authority.file, names=(ID, host))
    certificate = Certificate(files)
    before = certificate.current()
    for others in ((ID,), (host,), ("spiffe://weft/weft/auth", "auth.weft.weft")):
        authority.issue(*others)
        touch(files, 10)
        assert certificate.current() is before
        with pytest.raises(ServiceError, match="is not for"):
            Certificate(files)
