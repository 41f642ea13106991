"""What a server shows by TLS, and whether it asks for its clients' certificates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from services.rpc.certificate import Certificate, CertificateFiles, Material


@dataclass(frozen=True, slots=True)
class TlsListener:
    """A listener by TLS beside that of the mesh, for peers outside it, which need no certificate. `certificate` and
    `key` are files in PEM, the certificate's chain behind it; `section` of weft.yaml is where they are set, for errors.
    """

    address: str
    certificate: Path
    key: Path
    section: str

    def credentials(self) -> grpc.ServerCredentials:
        """What the server shows. Raises ARGUMENT_INVALID for files that are absent, wrong, or expired."""
        files = CertificateFiles(self.certificate, self.key, setting=f"{self.section}.tls_")
        return server_credentials(Certificate(files))


def server_credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Credentials that follow the files. Where these name authorities, every client must show a certificate of one."""
    shown = certificate.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks at each connection, on a thread of its own; None means that nothing has changed."""
        nonlocal shown
        if (current := certificate.current()) is shown:
            return None
        shown = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        renewed,  # type: ignore[arg-type] # its stubs forget that it may answer None
        require_client_authentication=shown.ca is not None,
    )


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.chain)], material.ca)
