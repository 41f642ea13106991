"""Functions and endpoints at Globus Compute, by blocking calls: to be called from a thread, or from a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import globus_sdk
from globus_compute_sdk import Client
from globus_compute_sdk.errors import ComputeError

from services.globus.errors import REMEDIES, GlobusError, Kind, explain
from services.globus.sources import Source


class ControlClient(Protocol):
    """What is used of `globus_compute_sdk.Client`."""

    def register_source_code(
        self, source: str, function_name: str, description: str | None = None, *, ha_endpoint_id: str | None = None
    ) -> str:
        """Registers a function, and gives its UUID."""

    def get_function(self, function_id: str) -> Any:
        """What is registered."""

    def get_endpoint_metadata(self, endpoint_uuid: str) -> Any:
        """What an endpoint says of itself."""

    def get_endpoint_status(self, endpoint_uuid: str) -> Any:
        """Whether it is online, and its last report."""

    def get_allowed_functions(self, endpoint_id: str) -> Any:
        """Which functions it may run."""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """Whether an endpoint's agent is heard of, and its last report, whose fields are the agent's."""

    online: bool
    report: dict[str, Any] = field(default_factory=dict)


class Control:
    """Calls of Globus Compute's web service. Each raises `GlobusError`, and may be made from any thread."""

    def __init__(self, client: ControlClient | Client) -> None:
        self._client = client

    def register(self, source: Source, *, ha_endpoint_uuid: str = "") -> str:
        """Registers a function by its source, for one high-assurance endpoint if that is named; gives its UUID.

        It travels as text, never as bytecode, so that the Python of the site need not be ours. Endpoints that restrict
        `allowed_serializers` must allow `globus_compute_sdk.serialize.PureSourceTextInspect`.
        """
        with _explained():
            return self._client.register_source_code(
                source.text, source.function, source.description, ha_endpoint_id=ha_endpoint_uuid or None
            )

    def source_of(self, function_uuid: str, function: str) -> str:
        """The source that is registered under a UUID, of a function with this Python name. Raises the kind
        UNKNOWN_FUNCTION if there is none.
        """
        with _explained(Kind.UNKNOWN_FUNCTION, f"Globus Compute knows no function {function_uuid}."):
            code = str(self._client.get_function(function_uuid)["function_code"])
        # As it was sent, or framed for the worker: a length, the strategy's mark, the name, and the source.
        _, mark, framed = code.partition(f"st\n{function}:")
        return framed if mark else code

    def status(self, endpoint_uuid: str) -> EndpointStatus:
        """Whether an endpoint is online. Raises the kind UNKNOWN_ENDPOINT if there is none."""
        with _unknown_endpoint(endpoint_uuid):
            answer = self._client.get_endpoint_status(endpoint_uuid)
            return EndpointStatus(answer["status"] == "online", dict(answer.get("details") or {}))

    def metadata(self, endpoint_uuid: str) -> dict[str, Any]:
        """What an endpoint says of itself: its name, its owner, its configuration. Raises the kind UNKNOWN_ENDPOINT."""
        with _unknown_endpoint(endpoint_uuid):
            return dict(self._client.get_endpoint_metadata(endpoint_uuid))

    def allowed_functions(self, endpoint_uuid: str) -> frozenset[str] | None:
        """The UUIDs that an endpoint may run; None if it may run all. Raises the kind UNKNOWN_ENDPOINT."""
        with _unknown_endpoint(endpoint_uuid):
            answer = self._client.get_allowed_functions(endpoint_uuid)
            return frozenset(map(str, answer["functions"])) if answer["restricted"] else None


@contextmanager
def _explained(unknown: Kind | None = None, sentence: str = "") -> Iterator[None]:
    """Translates errors; `unknown` is what a 404, or a UUID that is none, means here."""
    try:
        yield
    except globus_sdk.GlobusAPIError as error:
        if unknown is not None and error.http_status in (404, 422):
            raise GlobusError(unknown, sentence, REMEDIES[unknown]) from error
        raise explain(error) from error
    except (globus_sdk.GlobusError, ComputeError, OSError) as error:
        raise explain(error) from error
    except (KeyError, TypeError, ValueError) as error:
        message = f"Globus Compute answers in a shape that this version of Weft does not know: {error!r}."
        raise GlobusError(Kind.OTHER, message) from error


@contextmanager
def _unknown_endpoint(endpoint_uuid: str) -> Iterator[None]:
    sentence = f"Globus Compute knows no endpoint {endpoint_uuid}, or these credentials may not see it."
    with _explained(Kind.UNKNOWN_ENDPOINT, sentence):
        yield
