"""The section `tls` of weft.yaml: mutual TLS between the parts of a mesh."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.core.errors import Reason, ServiceError
from services.rpc.certificate import Certificate, CertificateFiles
from services.rpc.peer import SERVERS, Trust, part_host, part_id, trust_domain_of
from services.rpc.wire import PLAIN, Secure, Wire

_REMEDY = "; have certificates made by 'weft certs create', or put your own there"


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One section serves all parts of a machine: `{part}` in the files' names stands for router, registry, auth,
    facade, launcher, or admin, which is the command line. `docs/tls.md` tells what the certificates must hold.
    """

    directory: str = ""
    """Where the files are, relative to the home. Empty means that the mesh has no TLS."""
    certificate_file: str = "{part}.pem"
    """Relative to `directory`, as are the others. In PEM, the certificate's chain behind it."""
    key_file: str = "{part}-key.pem"
    ca_file: str = "ca.pem"
    """The authorities that may vouch for the parts, and for callers; several while one takes over from another."""
    trust_domain: str = "weft"
    envoy_ids: tuple[str, ...] = ()
    """SPIFFE ids of the Envoys whose `x-forwarded-client-cert` is believed."""

    def wire(self, part: str, home: Path) -> Wire:
        """How the part listens and dials. Raises ARGUMENT_INVALID for files that are absent, wrong, or expired."""
        files = self.files(part, home)
        return PLAIN if files is None else Wire(Secure(Certificate(files), self.trust()))

    def files(self, part: str, home: Path) -> CertificateFiles | None:
        """Where the part's certificate is; None if the mesh has no TLS."""
        if not self.directory:
            return None
        folder = home / self.directory
        names = (self.certificate_file, self.key_file, self.ca_file)
        certificate, key, ca = (folder / name.replace("{part}", part) for name in names)
        return CertificateFiles(certificate, key, ca, remedy=_REMEDY, names=self._names(part))

    def _names(self, part: str) -> tuple[str, ...]:
        """What the certificate must be for. A command may show any: whoever types it may be a caller with a role."""
        if part in ("admin", "worker"):
            return ()
        uri = part_id(self.trust_domain, part)
        return (uri, part_host(self.trust_domain, part)) if part in SERVERS else (uri,)

    def trust(self) -> Trust:
        """Whom the parts take certificates from. Raises ARGUMENT_INVALID for ids that are none."""
        if trust_domain_of(f"spiffe://{self.trust_domain}/x") != self.trust_domain:
            message = "'tls.trust_domain' must be small letters, digits, '.', '-' and '_'."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="tls.trust_domain")
        for proxy in self.envoy_ids:
            if trust_domain_of(proxy) != self.trust_domain:
                message = f"'tls.envoy_ids' must be SPIFFE ids, spiffe://{self.trust_domain}/NAME; {proxy!r} is none."
                raise ServiceError(Reason.ARGUMENT_INVALID, message, param="tls.envoy_ids")
        return Trust(self.trust_domain, frozenset(self.envoy_ids))
