"""How an endpoint of FIRST is reached: by Globus Compute, or directly by HTTP."""

from __future__ import annotations

from collections.abc import Callable

from services.cli.first.fields import Fields
from services.core.catalogue import HttpBackend
from services.core.globus import GlobusBackend, GlobusFunction


def read_globus(config: Fields, note: Callable[[str], None]) -> GlobusBackend:
    """The fields of FIRST's `GlobusComputeEndpoint`."""
    uuid = config.text("endpoint_uuid", required=True)
    config.text("function_uuid", required=True)
    note(f"calls go by Weft's own functions, which {uuid or 'the endpoint'} must allow; FIRST's take other arguments")
    return GlobusBackend(GlobusFunction(uuid), read_function(config, "batch_"), config.number("api_port"))


def read_function(config: Fields, prefix: str) -> GlobusFunction | None:
    """Where a function is called that may be absent: `{prefix}endpoint_uuid`, with `{prefix}function_uuid`, in whose
    place Weft calls its own.
    """
    names = (f"{prefix}endpoint_uuid", f"{prefix}function_uuid")
    endpoint, function = (config.text(name) for name in names)
    if not endpoint and not function:
        return None
    for name, value in zip(names, (endpoint, function), strict=True):
        if not value:
            config.complain(name, "is missing, while the other UUID of the function is there")
    return GlobusFunction(endpoint)


def read_http(config: Fields, note: Callable[[str], None]) -> HttpBackend:
    """The fields of FIRST's `DirectAPIEndpoint`."""
    for name in ("ca_cert_path", "client_cert_path", "client_key_path"):
        config.unsupported(name)
    config.unsupported("check_hostname", True)
    config.unsupported("trust_env", True, False)
    url = config.text("api_url", required=True).rstrip("/")
    # FIRST writes '/chat/completions' behind it, Weft '/v1/chat/completions'.
    if url.endswith("/v1"):
        url = url.removesuffix("/v1")
    elif url:
        note(f"'api_url' has no '/v1' at its end; Weft's calls go to {url}/v1/…")
    timeout = config.number("api_request_timeout")
    return HttpBackend(url, api_key_env=config.text("api_key_env_name"), timeout=float(timeout) or None)
