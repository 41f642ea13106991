"""A server's certificate: read from files, checked at the start, and read again when it has been renewed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from services.core.errors import Reason, ServiceError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsListener:
    """A listener by TLS beside the plain one. `certificate` and `key` are files in PEM, the certificate's chain behind
    it; `section` of weft.yaml is where they are set, for errors.
    """

    address: str
    certificate: Path
    key: Path
    section: str

    def credentials(self) -> grpc.ServerCredentials:
        """What the server shows. Raises ARGUMENT_INVALID for files that are absent, wrong, or expired."""
        files = _Files(self)
        # Its stubs forget that the function may answer None: nothing has changed.
        return grpc.dynamic_ssl_server_credentials(files.load(), files.reload)  # type: ignore[arg-type]


class _Files:
    """The two files, as they were when they were last looked at."""

    def __init__(self, listener: TlsListener, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._listener = listener
        self._now = now
        self._seen = self._stamps()
        self._lock = threading.Lock()

    def load(self) -> grpc.ServerCertificateConfiguration:
        """What they hold, checked."""
        listener = self._listener
        chain = self._read(listener.certificate, "tls_certificate_file")
        key = self._read(listener.key, "tls_key_file")
        try:
            certificate = x509.load_pem_x509_certificate(chain)
        except ValueError as error:
            raise self._wrong(listener.certificate, "tls_certificate_file", "holds no certificate in PEM") from error
        try:
            private = serialization.load_pem_private_key(key, None)
        except (ValueError, TypeError) as error:
            raise self._wrong(listener.key, "tls_key_file", "holds no private key in PEM without a password") from error
        if _public(private.public_key()) != _public(certificate.public_key()):
            raise self._wrong(listener.key, "tls_key_file", f"is not the key of {listener.certificate}")
        if certificate.not_valid_after_utc <= self._now():
            moment = certificate.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")
            raise self._wrong(listener.certificate, "tls_certificate_file", f"expired at {moment}; renew it")
        return grpc.ssl_server_certificate_configuration([(key, chain)])

    def reload(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks at each connection, on a thread of its own; None means that nothing has changed."""
        with self._lock:
            stamps = self._stamps()
            if stamps == self._seen:
                return None
            self._seen = stamps
            try:
                return self.load()
            except ServiceError as error:
                log.warning("the certificate is kept as it was: %s", error)
                return None

    def _stamps(self) -> tuple[float, ...]:
        try:
            return tuple(file.stat().st_mtime for file in (self._listener.certificate, self._listener.key))
        except OSError:
            return ()

    def _read(self, file: Path, setting: str) -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise self._wrong(file, setting, f"cannot be read: {reason}") from error

    def _wrong(self, file: Path, setting: str, what: str) -> ServiceError:
        param = f"{self._listener.section}.{setting}"
        return ServiceError(Reason.ARGUMENT_INVALID, f"'{param}': {file} {what}.", param=param)


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
