"""A small certificate authority, for development and for sites that have none: SPIFFE ids, EC P-256, files in PEM."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.cli.failures import CommandError
from services.rpc.peer import SERVERS, part_host, part_id

CA: Final = "ca.pem"
CA_KEY: Final = "ca-key.pem"

_CA_LIFE: Final = timedelta(days=3650)
_SKEW: Final = timedelta(minutes=5)
"""Clocks of other machines may be behind ours."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a certificate is to say. `hosts` are names and addresses; with any, it may serve."""

    spiffe_id: str
    lasts: timedelta
    hosts: Sequence[str] = ()


def for_part(part: str, trust_domain: str, lasts: timedelta, hosts: Sequence[str] = ()) -> Wanted:
    """What the certificate of a part of the mesh says."""
    own = (part_host(trust_domain, part), "localhost", "127.0.0.1", "::1", *hosts) if part in SERVERS else ()
    return Wanted(part_id(trust_domain, part), lasts, own)


class Authority:
    """An authority whose certificate stands in `directory`, and whose key in `key_file`."""

    def __init__(self, directory: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._directory = directory
        self._key = key
        self.certificate = certificate

    @classmethod
    def open(cls, directory: Path, key_file: Path) -> Self | None:
        """The authority that is there, None if there is none. Raises `CommandError` if it lacks its key."""
        ca = directory / CA
        if not ca.exists():
            return None
        try:
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        except FileNotFoundError:
            raise CommandError(f"The key of {ca} is not at {key_file}; say with --ca-key where it is kept.") from None
        except (OSError, ValueError, TypeError) as error:
            raise CommandError(f"{key_file} cannot be read as a private key in PEM without a password.") from error
        for certificate in read_certificates(ca):
            if isinstance(key, ec.EllipticCurvePrivateKey) and certificate.public_key() == key.public_key():
                return cls(directory, key, certificate)
        raise CommandError(f"{key_file} is the key of no authority in {ca}; say with --ca-key where its key is kept.")

    @classmethod
    def make(cls, directory: Path, key_file: Path, trust_domain: str) -> Self:
        """A new one. Those that are in the file stay trusted, as long as they have not expired: what they have vouched
        for is good until it is renewed.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        name = _name(f"Weft {trust_domain} {now:%Y-%m-%d %H:%M:%S}")
        builder = _builder(name, name, key.public_key(), now + _CA_LIFE).add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        certificate = builder.add_extension(_usage(signs_certificates=True), critical=True).sign(key, hashes.SHA256())
        before = read_certificates(directory / CA) if (directory / CA).exists() else []
        good = [one for one in before if one.not_valid_after_utc > now]
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(key_file, _private(key))
        _write(directory / CA, b"".join(_pem(one) for one in (certificate, *good)), 0o644)
        return cls(directory, key, certificate)

    def issue(self, wanted: Wanted, name: str) -> Path:
        """Writes `{name}.pem` and `{name}-key.pem`, and gives the first. Each is renamed into place, the key first:
        whoever reads them in between keeps what it has.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        end = min(datetime.now(UTC) + wanted.lasts, self.certificate.not_valid_after_utc)
        builder = _builder(_name(name), self.certificate.subject, key.public_key(), end)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(wanted.spiffe_id), *_general(wanted.hosts)]),
            critical=False,
        )
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if wanted.hosts else [])]
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        file = self._directory / f"{name}.pem"
        write_private(self._directory / f"{name}-key.pem", _private(key))
        _write(file, _pem(certificate), 0o644)
        return file


def read_certificates(file: Path) -> list[x509.Certificate]:
    """What stands in a file. Raises `CommandError`."""
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CommandError(f"{file} cannot be read as certificates in PEM.") from error


def spiffe_ids(certificate: x509.Certificate) -> list[str]:
    """The URIs that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def write_private(file: Path, content: bytes) -> None:
    """Writes a file that nobody else may read, at no moment."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(file, content, 0o600)


def _write(file: Path, content: bytes, mode: int) -> None:
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    fresh.replace(file)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general(hosts: Iterable[str]) -> list[x509.GeneralName]:
    general: list[x509.GeneralName] = []
    for host in hosts:
        try:
            general.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            general.append(x509.DNSName(host))
    return general


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
