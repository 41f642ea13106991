"""The way from a worker to a router: plain inside the mesh, by TLS from outside it, there through an HTTP proxy where
the site has one. Needs the base dependencies alone.
"""

from __future__ import annotations

import os
import re
import ssl
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from services.core.errors import Reason, ServiceError
from services.rpc.channel import CHANNEL_OPTIONS, dial

NO_PROXY: Final = "none"
"""The proxy's name that means: none, whatever the environment says."""

_SCHEME: Final = "https://"
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
)


def check_router(address: str) -> None:
    """Raises ARGUMENT_INVALID unless it is `host:port`, or `https://host[:port]`."""
    try:
        parts = urllib.parse.urlsplit(address if address.startswith(_SCHEME) else f"//{address}")
        good = bool(parts.hostname) and (parts.port or 0 if not parts.scheme else parts.port != 0)
    except ValueError:  # of the port
        good = False
    if not good or parts.path not in ("", "/") or parts.query or parts.username is not None:
        message = f"A router is given as HOST:PORT, or as https://HOST[:PORT] for TLS; it is {address!r}."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="--router")


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach routers that are given as `https://host[:port]`; others are dialled as inside the mesh.

    `ca_file` holds the authorities that may vouch for a router, instead of the system's. `proxy` is a URL,
    `NO_PROXY`, or empty: then the environment's `https_proxy` and `no_proxy` say it. `certificate_file` and `key_file`
    are what we show to a router that demands a certificate.
    """

    ca_file: Path | None = None
    proxy: str = ""
    certificate_file: Path | None = None
    key_file: Path | None = None

    def check(self) -> None:
        """Raises ARGUMENT_INVALID for a proxy or a file that cannot be used."""
        if self.proxy not in ("", NO_PROXY):
            _check_proxy(self.proxy, "--proxy")
        if (self.certificate_file is None) is not (self.key_file is None):
            message = "--tls-certificate-file and --tls-key-file go together; give both, or neither."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="--tls-key-file")
        if self.ca_file is not None:
            text = _read(self.ca_file)
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text.decode("ascii", "ignore"))
            except (ssl.SSLError, ValueError) as error:
                message = f"{self.ca_file} holds no certificates in PEM; give the file of the router's authority."
                raise ServiceError(Reason.ARGUMENT_INVALID, message, param="--router-ca") from error

    def dial(self, router: str) -> grpc.aio.Channel:
        """A channel to a router. It connects when it is first used. Raises ARGUMENT_INVALID as `check` does."""
        if not router.startswith(_SCHEME):
            return dial(router)
        parts = urllib.parse.urlsplit(router)
        host, port = parts.hostname or "", parts.port or 443
        options: dict[str, int | str] = dict(CHANNEL_OPTIONS)
        if proxy := self._proxy_for(host, port):
            options |= {"grpc.enable_http_proxy": 1, "grpc.http_proxy": proxy}
        certificate = key = None
        if self.certificate_file is not None and self.key_file is not None:
            certificate = _read(self.certificate_file, "The certificate", "--tls-certificate-file")
            key = _read(self.key_file, "The certificate's key", "--tls-key-file")
        credentials = grpc.ssl_channel_credentials(self._roots(), key, certificate)
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return grpc.aio.secure_channel(target, credentials, options=tuple(options.items()))

    def _proxy_for(self, host: str, port: int) -> str:
        if self.proxy == NO_PROXY:
            return ""
        if self.proxy:
            # gRPC heeds the environment's exceptions for a proxy that it is told, too; its own variable comes first.
            os.environ["no_grpc_proxy"] = ""  # noqa: SIM112 - its name is in small letters
            return self.proxy
        proxy = urllib.request.getproxies_environment().get("https", "")
        if not proxy or urllib.request.proxy_bypass(f"{host}:{port}"):
            return ""
        proxy = proxy if "://" in proxy else f"http://{proxy}"
        _check_proxy(proxy, "https_proxy")
        return proxy

    def _roots(self) -> bytes | None:
        """The authorities. gRPC's own, which come with it, know nothing of those that a site has added to its system's;
        None is for those.
        """
        if self.ca_file is not None:
            return _read(self.ca_file)
        for bundle in (ssl.get_default_verify_paths().cafile, *_BUNDLES):
            if bundle and Path(bundle).is_file():
                return Path(bundle).read_bytes()
        return None


def explain(router: str, details: str) -> ServiceError:
    """Why a router cannot be reached, by gRPC's own words for it."""
    for pattern, sentence in _CAUSES:
        if re.search(pattern, details):
            return ServiceError(Reason.ROUTER_UNAVAILABLE, sentence.format(router=router))
    said = f" ({details[:200]})" if details else ""
    return ServiceError(Reason.ROUTER_UNAVAILABLE, f"The router at {router} cannot be reached{said}.")


_CAUSES: Final = (
    (
        "certificate has expired",
        "The certificate of the router at {router} has expired; its administrator must renew it.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "The certificate of the router at {router} is of an authority that is not trusted here; give that authority's "
        "file with --router-ca.",
    ),
    (
        "Hostname Verification Check failed|not in peer certificate",
        "The certificate of the router at {router} is for another name; give --router the name that it is for.",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "What listens at {router} does not speak TLS; give --router without https://, or the port of its TLS listener.",
    ),
    (
        "HTTP proxy returned response code 407",
        "The HTTP proxy wants a name and a password before it lets us reach {router}; give them in the proxy's URL.",
    ),
    ("HTTP proxy returned response code", "The HTTP proxy does not let us reach the router at {router}."),
    (
        "(?i)domain name not found|name resolution|address lookup failed|DNS resolution failed",
        "The name of the router at {router}, or of the proxy on the way to it, is not known here.",
    ),
    (
        "Connection refused",
        "Nothing listens at {router}, or at the proxy on the way to it.",
    ),
)


def _check_proxy(proxy: str, what: str) -> None:
    try:
        parts = urllib.parse.urlsplit(proxy)
        good = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        good = False
    if not good:  # without the URL itself, which may hold a password
        message = f"'{what}' must look like http://[USER:PASSWORD@]HOST:PORT, or be '{NO_PROXY}'."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param=what)


def _read(file: Path, what: str = "The authorities' file", param: str = "--router-ca") -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        message = f"{what} {file} cannot be read: {error.strerror}."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param=param) from error
