"""Who is at the other end of a TLS connection, by SPIFFE id; the one place that reads it.

A proxy that terminates TLS in front of us, Envoy, tells its client's certificate in `x-forwarded-client-cert`. Anybody
can send such a header, so it counts only from a peer whose own SPIFFE id is a trusted proxy's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

FORWARDED: Final = "x-forwarded-client-cert"

PARTS: Final = ("router", "registry", "auth", "facade", "launcher", "worker", "admin")
"""The parts of a mesh, each with the id `spiffe://{trust domain}/weft/{part}`; `admin` is for the command line."""
SERVERS: Final = ("router", "registry", "auth", "launcher")
"""Those that others dial."""

_LONGEST: Final = 2048
_DOMAIN: Final = r"[a-z0-9._-]{1,255}"
_ID: Final = re.compile(rf"spiffe://({_DOMAIN})((?:/[A-Za-z0-9._-]+)+)")
_URI: Final = "peer_uri"
"""gRPC's name for the URI SANs of a certificate that it has verified. Its `x509_subject_alternative_name` mixes them
with DNS names, and a DNS name may look like a URI.
"""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a part of the mesh takes certificates from: one trust domain, and in it the `proxies`, by SPIFFE id, that
    may speak for their clients.
    """

    domain: str
    proxies: frozenset[str] = frozenset()

    def part(self, spiffe_id: str) -> str | None:
        """Which part of the mesh the id names; empty for one that does not exist, None where it names no part."""
        prefix = f"spiffe://{self.domain}/weft/"
        if not spiffe_id.startswith(prefix):
            return None
        part = spiffe_id.removeprefix(prefix)
        return part if part in PARTS else ""


def part_id(trust_domain: str, part: str) -> str:
    """The SPIFFE id of a part of the mesh."""
    return f"spiffe://{trust_domain}/weft/{part}"


def part_host(trust_domain: str, part: str) -> str:
    """The DNS name in the certificate of a part of the mesh, which clients look for: gRPC's check of a server knows no
    SPIFFE ids.
    """
    return f"{part}.weft.{trust_domain}"


def trust_domain_of(spiffe_id: str) -> str | None:
    """The trust domain of a SPIFFE id with a path, None if it is none (https://spiffe.io, "SPIFFE-ID")."""
    match = _ID.fullmatch(spiffe_id) if len(spiffe_id) <= _LONGEST else None
    if match is None or any(segment in (".", "..") for segment in match[2].split("/")):
        return None
    return match[1]


def path_of(spiffe_id: str) -> str:
    """What stands behind the trust domain of a valid SPIFFE id, without its first slash."""
    return spiffe_id.removeprefix("spiffe://").partition("/")[2]


def own_id(context: Any, trust_domain: str) -> str | None:
    """The SPIFFE id of whoever holds the other end of the connection; None without a certificate, or with one that has
    not exactly one URI, an id of our trust domain (as the standard "X509-SVID" asks).
    """
    uris = (context.auth_context() or {}).get(_URI, ())
    return _sole([uri.decode("utf-8", "replace") for uri in uris], trust_domain)


def peer_id(context: Any, trusted_proxies: Collection[str] = (), *, trust_domain: str) -> str | None:
    """The SPIFFE id of the caller of an RPC: the peer's own, or what a trusted proxy says of its client. None where
    that is not certain.
    """
    own = own_id(context, trust_domain)
    if own is None or own not in trusted_proxies:
        return own
    headers = [value for key, value in context.invocation_metadata() or () if key == FORWARDED]
    # Envoy appends to the header that it was sent, and never makes a second one.
    return _forwarded(headers[0], trusted_proxies, trust_domain) if len(headers) == 1 else None


def _sole(uris: list[str], trust_domain: str) -> str | None:
    return uris[0] if len(uris) == 1 and trust_domain_of(uris[0]) == trust_domain else None


def _forwarded(header: object, trusted_proxies: Collection[str], trust_domain: str) -> str | None:
    """The client's id in the header's last element, which alone the proxy has written itself: those before it are what
    the client sent, if the proxy appends.
    """
    try:
        *_, last = _elements(header if isinstance(header, str) else "")
    except ValueError:
        return None
    by = [value for key, value in last if key == "by" and value]
    if any(value not in trusted_proxies for value in by):
        return None  # Not written by the proxy: it passes on what clients send.
    # An empty one counts: Envoy writes it for a certificate without URIs, whose other names may be made to look like
    # one.
    return _sole([value for key, value in last if key == "uri"], trust_domain)


_PAIR: Final = re.compile(r'([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^",;]*)')


def _elements(header: str) -> Iterator[list[tuple[str, str]]]:
    """The elements of an x-forwarded-client-cert, each the pairs of a certificate: `,` between elements, `;` between
    pairs, values in quotes where they hold those (Envoy's documentation, "HTTP headers"). Raises ValueError for
    anything else.
    """
    at, pairs = 0, list[tuple[str, str]]()
    while (match := _PAIR.match(header, at)) is not None:
        value = match[2]
        pairs.append((match[1].lower(), re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value))
        at = match.end()
        separator = header[at : at + 1]
        if separator != ";":
            yield pairs
            pairs = []
        if not separator:
            return
        if separator not in (",", ";"):
            break
        at += 1
    raise ValueError("not as Envoy writes it")
