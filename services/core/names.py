"""Resource names: `clusters/{c}`, `clusters/{c}/endpoints/{e}`, `routes/{r}`, `keys/{k}` (https://google.aip.dev/122)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.core.errors import Reason, ServiceError

_ID = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
ID_RULE = "1 to 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit"
_PATTERNS = {
    "cluster": ("clusters/{cluster}", re.compile(f"clusters/({_ID})")),
    "endpoint": ("clusters/{cluster}/endpoints/{endpoint}", re.compile(f"clusters/({_ID})/endpoints/({_ID})")),
    "route": ("routes/{route}", re.compile(f"routes/({_ID})")),
    "key": ("keys/{key}", re.compile(f"keys/({_ID})")),
    "function": ("functions/{function}", re.compile(f"functions/({_ID})")),
    "start": ("starts/{start}", re.compile(f"starts/({_ID})")),
}


@dataclass(frozen=True, slots=True)
class EndpointName:
    """`clusters/{cluster}/endpoints/{endpoint}`, taken apart."""

    cluster: str
    endpoint: str

    @property
    def parent(self) -> str:
        """The cluster's resource name."""
        return f"clusters/{self.cluster}"

    def __str__(self) -> str:
        return f"clusters/{self.cluster}/endpoints/{self.endpoint}"


def check(kind: str, name: str, *, param: str = "name") -> tuple[str, ...]:
    """The ids in a resource name of a kind. Raises ARGUMENT_INVALID if it is not one."""
    shape, pattern = _PATTERNS[kind]
    match = pattern.fullmatch(name)
    if match is None:
        raise ServiceError(
            Reason.ARGUMENT_INVALID,
            f"'{param}' must look like '{shape}' ({ID_RULE}); it is {name[:200]!r}.",
            param=param,
        )
    return match.groups()


def endpoint_name(name: str, *, param: str = "name") -> EndpointName:
    """Takes an endpoint's name apart. Raises ARGUMENT_INVALID if it is not one."""
    cluster, endpoint = check("endpoint", name, param=param)
    return EndpointName(cluster, endpoint)


def slug(text: str) -> str:
    """An id made from any text: `meta-llama/Llama-3.1-8B` gives `meta-llama-llama-3.1-8b`. Empty if nothing usable is
    in it.
    """
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:63].strip("-._")
