"""A certificate, its key, and the authorities to trust: read from files, checked, and read again when renewed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from prometheus_client import Gauge

from services.core.errors import Reason, ServiceError

log = logging.getLogger(__name__)

_DAY: Final = 86400.0
_NEAR: Final = 14 * _DAY
EXPIRY: Final = Gauge("weft_certificate_expiry_seconds", "From now until the certificate expires.", ("file",))


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Files in PEM: the certificate, its chain behind it; its key; and, where the peer is to show one too, the
    authorities (`ca`) that may vouch for it. `setting` begins the names of their settings in weft.yaml, for errors:
    `tls.`, `router.tls_`. `remedy` ends the sentence about a file that is not there. `names` are URIs and DNS names
    that the certificate must be for.
    """

    certificate: Path
    key: Path
    ca: Path | None = None
    setting: str = "tls."
    remedy: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Material:
    """What the files held when they were last good. `expires_at` is in seconds since 1970."""

    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    ca: bytes | None = field(repr=False)
    expires_at: float


class Certificate:
    """The files' content, kept as it was while they are absent, half written, or wrong. May be used from any thread.

    Raises ARGUMENT_INVALID when it is made from files that are no good.
    """

    def __init__(self, files: CertificateFiles, clock: Callable[[], float] = time.time) -> None:
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._warned_at = 0.0
        self._material = _load(files, clock())
        EXPIRY.labels(str(files.certificate)).set_function(lambda: self._material.expires_at - clock())

    def current(self) -> Material:
        """What to show and to trust now; the same object as long as nothing changes. Looks at the files each time,
        which costs a few microseconds.
        """
        with self._lock:
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps  # Before reading: what changes meanwhile is seen at the next look.
                self._reload()
            self._warn()
            return self._material

    def _reload(self) -> None:
        try:
            self._material = _load(self._files, self._clock())
        except ServiceError as error:
            log.warning("the certificate is kept as it was: %s", error)
        else:
            log.info("the certificate %s was read anew", self._files.certificate)

    def _warn(self) -> None:
        now = self._clock()
        left = self._material.expires_at - now
        if left < _NEAR and now - self._warned_at >= _DAY:
            self._warned_at = now
            when = "has expired" if left <= 0 else f"expires in {int(left / _DAY)} days"
            log.warning("the certificate %s %s; renew it", self._files.certificate, when)

    def _stamps(self) -> tuple[tuple[int, int, int], ...]:
        files = self._files
        try:
            stats = [file.stat() for file in (files.certificate, files.key, files.ca) if file is not None]
        except OSError:
            return ()
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


def _load(files: CertificateFiles, now: float) -> Material:
    chain = _read(files, "certificate_file", files.certificate)
    key = _read(files, "key_file", files.key)
    ca = None if files.ca is None else _read(files, "ca_file", files.ca)
    certificate = _certificates(files, "certificate_file", files.certificate, chain)[0]
    for name in files.names:
        if name not in _names(certificate):
            raise _wrong(files, "certificate_file", files.certificate, f"is not for {name}, which peers look for")
    if files.ca is not None and ca is not None:
        _certificates(files, "ca_file", files.ca, ca)
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        message = "holds no private key in PEM without a password"
        raise _wrong(files, "key_file", files.key, message) from error
    if _public(private.public_key()) != _public(certificate.public_key()):
        raise _wrong(files, "key_file", files.key, f"is not the key of {files.certificate}")
    expires_at = certificate.not_valid_after_utc.timestamp()
    if expires_at <= now:
        moment = datetime.fromtimestamp(expires_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise _wrong(files, "certificate_file", files.certificate, f"expired at {moment}; renew it")
    return Material(chain, key, ca, expires_at)


def _certificates(files: CertificateFiles, setting: str, file: Path, text: bytes) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise _wrong(files, setting, file, "holds no certificate in PEM") from error
    # A parser passes over a last block that is cut off; without it we would trust, or show, less than is meant.
    if len(found) != text.count(b"-----BEGIN "):
        raise _wrong(files, setting, file, "is cut off, or holds more than certificates")
    return found


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier) + names.get_values_for_type(x509.DNSName)


def _read(files: CertificateFiles, setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = files.remedy if isinstance(error, FileNotFoundError) else ""
        raise _wrong(files, setting, file, f"cannot be read: {reason}{remedy}") from error


def _wrong(files: CertificateFiles, setting: str, file: Path, what: str) -> ServiceError:
    param = f"{files.setting}{setting}"
    return ServiceError(Reason.ARGUMENT_INVALID, f"'{param}': {file} {what}.", param=param)


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
