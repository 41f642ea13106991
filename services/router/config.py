"""The router's section of weft.yaml. Durations are in seconds, sizes in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.router.bounds import Reckoning
from services.router.dispatcher import DispatchSettings
from services.router.limits.config import LimitsConfig
from services.rpc.limits import MuxLimits
from services.rpc.server_tls import TlsListener


class UsageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How records of calls get to auth. What a router that is killed has not yet written is lost: at most the records
    of the last `flush_s`; an orderly stop loses none.
    """

    flush_s: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    flush_records: Annotated[int, msgspec.Meta(gt=0)] = 1000
    """They are written sooner when so many wait."""
    spool_bytes: Annotated[int, msgspec.Meta(gt=0)] = 1024 * 1024 * 1024
    """What may lie on the disk while auth is away; beyond it the oldest records are dropped."""


class RouterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the router listens, whom it asks, and how long and how hard it tries."""

    address: str = "127.0.0.1:7000"
    tls_address: str = ""
    """A second listener, by TLS, for workers outside the mesh; empty means none."""
    tls_certificate_file: str = ""
    """The certificate that it shows, with its chain, in PEM; relative to the home, as is the key's file."""
    tls_key_file: str = ""
    registry_address: str = "127.0.0.1:7001"
    auth_address: str = "127.0.0.1:7002"
    launcher_address: str = "127.0.0.1:7003"
    """Dialled once the catalogue has an endpoint that workers are started for."""
    service_key_file: str = ""
    """The key that it shows to registry and auth; empty means `service.key` in the home."""
    first_byte_timeout_s: float = 600.0
    stall_timeout_s: float = 120.0
    total_timeout_s: float = 3600.0
    max_attempts: int = 3
    """Servers that one call may try before its first byte."""
    wait_for_worker_s: float = 5.0
    """How long a call waits for a worker to come or come back."""
    cold_start_patience_s: float = 600.0
    """How long a call waits where a worker can be started; clients may ask for less."""
    heartbeat_after_s: float = 15.0
    """After so long without a first byte a streamed call hears how things stand, and as often again."""
    max_waiting_calls: int = 2000
    max_waiting_bytes: int = 512 * 1024 * 1024
    """Bodies of all calls that wait."""
    max_calls: int = 8192
    max_body_bytes: int = 32 * 1024 * 1024
    settle_s: float = 5.0
    """After its start the router knows no model to be unknown for so long: workers are dialling again."""
    audit_file: str = ""
    """The audit log: calls to endpoints with `audit`, acts and refusals; empty means `router/audit.log` in the home."""
    stale_principals_s: float = 600.0
    """How long known callers stay known while auth is away."""
    usage: UsageConfig = UsageConfig()
    limits: LimitsConfig = LimitsConfig()
    """How calls, tokens and open calls are limited (docs/limits.md)."""

    def dispatch(self) -> DispatchSettings:
        """The part that concerns dispatch."""
        bounds = Bounds(self.first_byte_timeout_s, self.stall_timeout_s, self.total_timeout_s)
        return DispatchSettings(
            bounds,
            self.max_attempts,
            self.wait_for_worker_s,
            self.max_waiting_calls,
            self.cold_start_patience_s,
            self.heartbeat_after_s,
            self.max_waiting_bytes,
        )

    def tls(self, home: Path) -> TlsListener | None:
        """The listener by TLS. Raises ARGUMENT_INVALID if its files are not named."""
        if not self.tls_address:
            return None
        for setting in ("tls_certificate_file", "tls_key_file"):
            if not getattr(self, setting):
                message = f"'router.tls_address' needs 'router.{setting}'."
                raise ServiceError(Reason.ARGUMENT_INVALID, message, param=f"router.{setting}")
        return TlsListener(self.tls_address, home / self.tls_certificate_file, home / self.tls_key_file, "router")

    def reckoning(self) -> Reckoning:
        """How the tokens of calls are reckoned."""
        limits = self.limits
        return Reckoning(limits.answer_tokens, limits.prompt_overhead_tokens, limits.unseen_tokens)

    def mux_limits(self) -> MuxLimits:
        """What one facade may ask of the router."""
        return MuxLimits(max_calls=self.max_calls, max_body=self.max_body_bytes)
