"""The facade's own certificate, for HTTPS: read again when it has been renewed."""

from __future__ import annotations

import logging
import ssl

from services.rpc.certificate import Certificate, CertificateFiles

log = logging.getLogger(__name__)


def https_context(files: CertificateFiles) -> ssl.SSLContext:
    """What uvicorn is to serve by. Raises ARGUMENT_INVALID for files that are absent, wrong, or expired."""
    certificate = Certificate(files)
    shown = certificate.current()
    present = first = _context(files)

    def renewed(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """OpenSSL asks at each connection, whether or not the client names a host."""
        nonlocal shown, present
        if (current := certificate.current()) is not shown:
            try:
                # A new one: what fails half-way would leave the certificate of the one and the key of the other.
                present = _context(files)
                shown = current
            except (OSError, ssl.SSLError) as error:  # changed again since it was checked; the next connection looks
                log.warning("the certificate is kept as it was: %s", error)
        connection.context = present

    first.sni_callback = renewed
    return first


def _context(files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(files.certificate, files.key)
    return context
