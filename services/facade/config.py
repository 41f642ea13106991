"""The facade's section of weft.yaml. Durations are in seconds, sizes in bytes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.core.errors import Reason, ServiceError
from services.rpc.certificate import CertificateFiles


class FacadeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the facade listens, which router it uses, and what it bears from clients."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls_certificate_file: str = ""
    """With it the facade speaks HTTPS: the certificate, with its chain, in PEM; relative to the home, as is the key's
    file. Both are read again when they have changed.
    """
    tls_key_file: str = ""
    router_address: str = "127.0.0.1:7000"
    wait_for_router_s: float = 3.0
    """How long a call waits for a router that is away, as during a restart."""
    max_body_bytes: int = 32 * 1024 * 1024
    max_arriving_bytes: int = 512 * 1024 * 1024
    """Bodies of all requests that are still arriving: whose they are is judged only when they are whole."""
    max_header_bytes: int = 64 * 1024
    header_timeout_s: float = 10.0
    """From the first byte of a request, or from the connection, to the end of its headers."""
    body_timeout_s: float = 60.0
    """Between the end of a request's headers and the end of its body."""
    keep_alive_s: float = 75.0
    """How long an idle connection is kept. Longer than proxies keep theirs, so that they do not reuse one that is
    closing.
    """
    call_window_bytes: int = 256 * 1024
    """Answer bytes of one call that wait for its client at most."""
    window_budget_bytes: int = 64 * 1024 * 1024
    """Answer bytes of all calls together, roughly: windows shrink as more calls are open, to 16 KiB at the least."""

    def https(self, home: Path) -> CertificateFiles | None:
        """The files for HTTPS, None for plain HTTP. Raises ARGUMENT_INVALID if only one is named."""
        if not self.tls_certificate_file and not self.tls_key_file:
            return None
        for setting in ("tls_certificate_file", "tls_key_file"):
            if not getattr(self, setting):
                message = f"HTTPS needs 'facade.{setting}' too."
                raise ServiceError(Reason.ARGUMENT_INVALID, message, param=f"facade.{setting}")
        return CertificateFiles(home / self.tls_certificate_file, home / self.tls_key_file, setting="facade.tls_")
