"""What a server's boundary tells the audit log: acts and refusals, and nothing of what a request or an answer holds but
the names of resources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from services.core.errors import ServiceError
from services.core.principal import Principal

NAMES: Final = ("name", "principal", "start", "endpoint", "session")
"""Fields that name a resource, the most exact first. Never `key` or `credential`: these are secrets."""

_LONGEST: Final = 256
_MOST: Final = 20


@dataclass(frozen=True, slots=True)
class Who:
    """Who is at the other end: the principal if it is known, the kind of its credential, whose that is, and the host
    that the connection comes from.
    """

    principal: str = ""
    credential: str = ""
    subject: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """An RPC that changes something."""

    who: Who
    method: str
    resource: str
    request_id: str
    detail: str = ""
    """What about it: the roles and groups that are given, the fields that are changed."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who was refused what, and why. Two of the same are the same: a request's id is no part of it."""

    who: Who
    method: str
    reason: str
    model: str = ""


class Auditor(Protocol):
    """Writes them."""

    async def begin(self, act: Act) -> str:
        """When this returns, the line is on the disk. Gives what `end` is told by. Raises OVERLOADED if it cannot be
        written: then the act must not be done.
        """

    async def end(self, act: Act, begun: str, outcome: str, result: str = "") -> None:
        """What became of it: `ok`, `cancelled`, or the reason of the error in lower case. On the disk when this
        returns, if it takes it. `result` names what was made.
        """

    def end_later(self, act: Act, begun: str, outcome: str) -> None:
        """The same, without waiting for the disk."""

    def note(self, act: Act, outcome: str, result: str = "") -> None:
        """An act that is not held up; whole in one line."""

    def refuse(self, refusal: Refusal, request_id: str) -> None:
        """Somebody was refused. Never blocks, never raises."""


def who(principal: Principal | None, peer: str) -> Who:
    """Who it is, as lines say it."""
    if principal is None:
        return Who(peer=_host(peer))
    identity = principal.identity
    return Who(principal.name, identity.kind.name.lower(), clipped(identity.subject), _host(peer))


def whom(error: ServiceError, principal: Principal | None, peer: str) -> Who:
    """Who was refused: whom the error names, who may be somebody that the caller asked about, else the caller."""
    if error.principal and (principal is None or error.principal != principal.name):
        return Who(error.principal, peer=_host(peer))
    return who(principal, peer)


def resource_of(message: object) -> str:
    """The names of the resources that a message is about; empty if it names none."""
    if not isinstance(message, Message):
        return ""
    names = list(_names(message))
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def detail_of(message: object) -> str:
    """Which roles and groups a request gives, and which fields it changes; empty if it says nothing of them. An auditor
    is to see that a key was made an administrator's.
    """
    if not isinstance(message, Message):
        return ""
    told = []
    for field, value in message.ListFields():
        if field.name == "roles" and (kinds := field.enum_type) is not None:
            told.append(f"roles: {', '.join(_role(kinds.values_by_number, number) for number in value)}")
        elif field.name == "groups":
            told.append(f"groups: {', '.join(value)}")
        elif field.name == "update_mask":
            told.append(f"fields: {', '.join(value.paths)}")
    return clipped("; ".join(told))


def _role(names: Any, number: int) -> str:
    return names[number].name.removeprefix("ROLE_").lower() if number in names else str(number)


def clipped(text: str) -> str:
    """A text that somebody else chose, of a bounded length."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _names(message: Any) -> Iterator[str]:
    known = message.DESCRIPTOR.fields_by_name
    for field in NAMES:
        if field in known and isinstance(value := getattr(message, field), str) and value:
            yield clipped(value)
            return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        several: Any = (value,) if isinstance(value, Message) else value
        for one in several:
            if "name" in one.DESCRIPTOR.fields_by_name and one.name:
                yield clipped(one.name)


def _host(peer: str) -> str:
    """The host of gRPC's `ipv4:127.0.0.1:5000`: each connection has a port of its own."""
    kind, _, address = peer.partition(":")
    return address.rpartition(":")[0] if kind in ("ipv4", "ipv6") else peer
