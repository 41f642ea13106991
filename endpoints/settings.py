"""The settings of one endpoint: what neither its site nor its model decides. Given with `--set` or `--settings`."""

from __future__ import annotations

from typing import Literal

import msgspec

Purpose = Literal["worker", "batch", "queue-status"]

FUNCTIONS_OF: dict[Purpose, tuple[str, ...]] = {
    "worker": ("start-worker", "inference", "probe"),
    "batch": ("batch", "probe"),
    "queue-status": ("queue-status", "probe"),
}


class FunctionsFor(msgspec.Struct, frozen=True):
    """Local users, and the functions that they may run; `*` stands for everybody not named before."""

    users: tuple[str, ...]
    functions: tuple[str, ...]


class IdentityMapping(msgspec.Struct, frozen=True):
    """Who becomes which local user: everybody of some domains under the name before the `@`, and some by their Globus
    username or identity's UUID.
    """

    domains: tuple[str, ...] = ()
    users: dict[str, str] = {}


class Systemd(msgspec.Struct, frozen=True):
    """A unit that starts the endpoint on boot; `environment_file` may hold GLOBUS_COMPUTE_CLIENT_ID and _SECRET."""

    user: str = "root"
    program: str = "/usr/sbin/globus-compute-endpoint"
    environment_file: str | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's settings.

    `task_slots` is how many tasks may run on the node beside the one that holds the worker. `functions` are Weft's own
    that may run; None takes those of the purpose. `function_users` moves the list into the template, one for each
    group of users. `queue_days` is how long a job may wait in the queue before the user endpoint gives up.
    """

    display_name: str | None = None
    email: str | None = None
    purpose: Purpose = "worker"
    task_slots: int = 8
    max_slots: int = 64
    min_blocks: int = 0
    init_blocks: int = 1
    max_blocks: int = 1
    functions: tuple[str, ...] | None = None
    function_users: tuple[FunctionsFor, ...] = ()
    any_function: bool = False
    serializers: tuple[str, ...] = ()
    public: bool = False
    admins: tuple[str, ...] = ()
    subscription_id: str | None = None
    authentication_policy: str | None = None
    high_assurance: bool = False
    endpoint_uuid: str | None = None
    audit_log: str | None = None
    identity_mapping: IdentityMapping | None = None
    pam_service: str | None = None
    systemd: Systemd | None = None
    amqp_port: int | None = None
    heartbeat_period: int = 30
    idle_minutes: int = 15
    queue_days: int = 7
    debug: bool = False

    @property
    def allowed(self) -> tuple[str, ...]:
        """The functions that this endpoint needs."""
        return FUNCTIONS_OF[self.purpose] if self.functions is None else self.functions
