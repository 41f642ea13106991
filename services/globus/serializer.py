"""What travels to and from Globus Compute: JSON alone, within the size that it carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from globus_compute_sdk.errors import DeserializationError
from globus_compute_sdk.serialize import ComputeSerializer, JSONData

from services.globus.errors import GlobusError, Kind

MAX_TASK: Final = 10 * 1024 * 1024
"""Bytes that the service takes in one submission."""

ENVELOPE: Final = 64 * 1024
"""Bytes of a submission that are kept for what stands around the payload: identifiers, versions, serializers."""

_ESCAPED: Final = 3.5
"""Bytes at most that one byte of UTF-8 beyond ASCII takes: of a character, two JSON texts, one inside the other, make
`\\\\u00e9`, and two of these beyond the basic plane.
"""
_ASCII: Final = bytes(range(128))


class JsonSerializer(ComputeSerializer):
    """Reads and writes JSON alone. The SDK reads a result by the way that the result itself names, pickles and source
    code among them: a node could have its code run here.
    """

    def __init__(self) -> None:
        super().__init__(strategy_data=JSONData())  # type: ignore[no-untyped-call]

    def deserialize(self, payload: str) -> Any:
        """The data. Raises `DeserializationError` for anything but JSON."""
        if not payload.startswith(JSONData.identifier):
            raise DeserializationError("it is not JSON")  # type: ignore[no-untyped-call]
        return super().deserialize(payload)


def task_size(payload: Mapping[str, Any], user_endpoint_config: Mapping[str, Any]) -> int:
    """The bytes that a submission of this one task takes at most."""
    encoded = msgspec.json.encode((payload, user_endpoint_config))
    beyond = len(encoded.translate(None, _ASCII))
    # The SDK sends the payload as JSON text inside JSON: its quotes and backslashes are escaped once more.
    escapes = encoded.count(b'"') + encoded.count(b"\\")
    return len(encoded) - beyond + int(beyond * _ESCAPED) + escapes + ENVELOPE


def check_size(payload: Mapping[str, Any], user_endpoint_config: Mapping[str, Any]) -> int:
    """The same. Raises `GlobusError` if the service would not take it."""
    size = task_size(payload, user_endpoint_config)
    if size > MAX_TASK:
        sentence = f"The call is {size / 2**20:.1f} MiB as a task, and Globus Compute carries {MAX_TASK // 2**20} MiB."
        raise GlobusError(Kind.TOO_LARGE, sentence)
    return size
