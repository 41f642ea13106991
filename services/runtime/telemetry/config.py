"""The section `tracing` of weft.yaml."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from services.core.tracing import Sampling

RATIO: Final = 0.01
"""The share of calls that is traced where nobody says otherwise."""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rate = Annotated[float, msgspec.Meta(ge=0)]


class TracingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing is traced where neither an `endpoint` nor `local` is set."""

    endpoint: str = ""
    """A collector's URL, for OTLP: `http://collector:4317`, with `https` for TLS. Empty sends nothing."""
    protocol: Literal["grpc", "http"] = "grpc"
    """`http` is protobuf by POST, to `/v1/traces` if the URL has no path."""
    headers_file: str = ""
    """Headers for the collector, such as its API key: a line each, `name: value`. Relative to the home."""
    ca_file: str = ""
    """The authorities that vouch for the collector, in PEM, instead of the public ones. Relative to the home."""
    local: bool | None = None
    """Keeps the latest traces in the home, for `weft trace`. Null is true for `weft up`, and false elsewhere."""
    ratio: Share | None = None
    """The share of calls that is traced, from 0 to 1. Null is 1 for `weft up`, and 0.01 elsewhere."""
    follow_parent: bool = True
    """Traces the calls whose `traceparent` says that they are sampled, and does not those where it says not."""
    forced_per_second: Rate = 100.0
    """How many calls a second callers may so have traced, in each process."""
    errors_per_second: Rate = 20.0
    """How many failed calls a second are traced although they were not sampled, in each process."""
    content: bool = False
    """Prompts and answers are told in spans, shortened. Whoever sees traces then reads what callers write."""

    def __post_init__(self) -> None:
        """Raises ValueError for a URL that cannot be; without it, as it may hold a password."""
        if not self.endpoint:
            return
        try:
            url = urlsplit(self.endpoint)
            right = url.scheme in ("http", "https") and url.hostname and url.port != 0
        except ValueError:
            right = False
        if not right or url.query or url.fragment:
            raise ValueError("'endpoint' must be a URL such as http://127.0.0.1:4317")
        if "@" in url.netloc:
            raise ValueError(
                "'endpoint' must hold no password; put the header 'authorization' into a file, and name that as "
                "'headers_file'"
            )
        if self.protocol == "grpc" and url.path.strip("/"):
            raise ValueError("'endpoint' must have no path with gRPC; remove it, or set 'protocol' to http")

    @property
    def on(self) -> bool:
        """Whether anything is traced."""
        return bool(self.endpoint or self.local)

    def sampling(self) -> Sampling:
        """What is kept."""
        return Sampling(
            ratio=RATIO if self.ratio is None else self.ratio,
            follow_parent=self.follow_parent,
            forced_per_second=self.forced_per_second,
            errors_per_second=self.errors_per_second,
        )
