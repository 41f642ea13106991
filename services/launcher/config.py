"""The launcher's section of weft.yaml. Durations are in seconds."""

from __future__ import annotations

import msgspec


class GlobusCredentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who submits tasks. With `client_id`, a service account whose secret is in `client_secret_file`, or in the
    variable that `client_secret_env` names; without, whoever is logged in on this machine.
    """

    client_id: str = ""
    client_secret_file: str = ""
    client_secret_env: str = ""


class LauncherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the launcher listens, whom it asks, and what holds where an endpoint's own policy says nothing.

    `database` is a URL as of the registry; empty means `launcher.db` in the home. Several launchers may share one: one
    of them acts at a time.
    """

    address: str = "127.0.0.1:7003"
    database: str = ""
    registry_address: str = "127.0.0.1:7001"
    auth_address: str = "127.0.0.1:7002"
    router_addresses: tuple[str, ...] = ("127.0.0.1:7000",)
    """All routers, as they are reached from here: it sees workers there, and stops them."""
    worker_routers: tuple[str, ...] = ()
    """The routers that workers dial, as they are reached from compute nodes; empty means `router_addresses`."""
    service_key_file: str = ""
    """The key that it shows to the others; empty means `service.key` in the home."""
    credentials: dict[str, GlobusCredentials] = msgspec.field(default_factory=lambda: {"default": GlobusCredentials()})
    """By the names that endpoints have in `credentials`."""

    idle_time_s: float = 1800.0
    queue_time_s: float = 604_800.0
    """How long a start may take until its worker attaches; its enrolment token lasts as long."""
    start_time_s: float = 7200.0
    """How long a worker may take from attaching until its vLLM answers."""
    replace_before_s: float = 900.0
    drain_before_s: float = 60.0
    """How long before the end of its job a worker stops taking calls."""
    worker_grace_s: float = 120.0
    """How long a worker that ends lets open calls go on."""
    attach_timeout_s: float = 120.0
    """How long a worker tries to reach a router before it says that it cannot."""
    first_backoff_s: float = 10.0
    longest_backoff_s: float = 900.0
    lost_after_s: float = 120.0
    """A worker that no router has seen for so long is taken for gone."""
    want_life_s: float = 15.0
    """A want that is not repeated within it is forgotten."""
    queue_age_s: float = 10.0
    """How old the answer about a queue may be that is given to those who ask."""
    queue_poll_s: float = 30.0
    """How often a queue is asked while a start waits there."""
    task_poll_s: float = 5.0
    """How often the node of a start whose calls travel as tasks is asked whether its vLLM answers."""
    task_slots: int = 8
    """How many calls of one worker run as tasks at once: the slots that its endpoint's template has beside the one that
    holds the worker."""
    lease_life_s: float = 10.0
    """A launcher that has not been heard of for so long is taken for dead by the others on its database."""
    tick_s: float = 1.0
    """How often it looks at workers and wants when nothing wakes it."""
