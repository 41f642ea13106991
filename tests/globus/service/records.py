"""What the emulated service keeps. Times are in seconds since 1970, ids are UUIDs as text."""

from __future__ import annotations

from typing import Any

import msgspec


class Client(msgspec.Struct, kw_only=True):
    """Somebody who may log in by client credentials, and the identity that the service knows them by."""

    id: str
    secret: str
    username: str
    name: str
    email: str = ""

    def identity(self) -> dict[str, Any]:
        """The identity in the form of Globus Auth's userinfo, and of the commands to endpoints."""
        return {
            "sub": self.id,
            "id": self.id,
            "status": "used",
            "username": self.username,
            "name": self.name,
            "email": self.email or None,
            "organization": None,
            "identity_provider": "00000000-0000-4000-8000-00000000c11e",
            "identity_provider_display_name": "Globus Auth Clients",
        }


class Token(msgspec.Struct, kw_only=True):
    """An access token that was given out. Its `id` is the token itself."""

    id: str
    client: str


class Endpoint(msgspec.Struct, kw_only=True):
    """A registered endpoint (`parent` empty), or a user endpoint that the service has an endpoint start for it."""

    id: str
    owner: str
    name: str
    parent: str = ""
    registration: dict[str, Any] = {}
    """The body of its registration; empty for a user endpoint."""
    config: dict[str, Any] = {}
    """A user endpoint's `user_endpoint_config`."""
    heartbeat_period: float = 0.0
    """As its last heartbeat told; 0 while it has sent none, and after it has said that it stops."""
    last_heartbeat: float = 0.0
    report: dict[str, Any] = {}

    @property
    def allowed_functions(self) -> list[str] | None:
        """The functions that it was registered for; None if any may run there."""
        return self.registration.get("allowed_functions")

    def online(self, now: float) -> bool:
        """Whether its heartbeats come."""
        return self.heartbeat_period > 0 and now - self.last_heartbeat < 2 * self.heartbeat_period + 5


class Function(msgspec.Struct, kw_only=True):
    """A registered function. `packed` is its code in the form that endpoints unpack."""

    id: str
    owner: str
    name: str
    code: str
    packed: str
    description: str = ""
    meta: dict[str, Any] = {}
    ha_endpoint: str = ""
    """The one high-assurance endpoint that it belongs to; empty for an ordinary function."""
    registered: float


class Task(msgspec.Struct, kw_only=True):
    """A task that was submitted. `stream` says that somebody listens on the queue of its group."""

    id: str
    group: str
    function: str
    endpoint: str
    user_endpoint: str
    owner: str
    payload: str
    headers: dict[str, Any]
    stream: bool
    submitted: float
    status: str = "waiting-for-ep"
    """`waiting-for-ep`, `success` or `failed`."""
    result: str | None = None
    exception: str | None = None
    details: dict[str, Any] | None = None
    completed: float | None = None
    results: int = 0
    """How many results have come for it: more than one if it was delivered more than once."""

    @property
    def over(self) -> bool:
        """Whether it has a result, good or bad."""
        return self.completed is not None


Record = Client | Token | Endpoint | Function | Task
