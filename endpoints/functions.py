"""Which versions of Weft's functions an endpoint allows: from the file that `weft functions register` writes."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import msgspec

from endpoints.mistakes import EndpointFilesError
from endpoints.reading import nearest, read_tree


class Version(msgspec.Struct, frozen=True):
    """One registration of a function; a high-assurance one runs at the endpoint `ha_endpoint` alone."""

    uuid: str
    sha256: str = ""
    registered: Any = None
    ha_endpoint: str | None = None


class Functions(msgspec.Struct, frozen=True):
    """Every function's registrations, newest first."""

    functions: dict[str, tuple[Version, ...]]
    source: str = "functions.yaml"

    def uuids(self, names: tuple[str, ...], endpoint_uuid: str | None) -> list[tuple[str, str]]:
        """(UUID, name) of all versions of these functions that the endpoint may run; old ones too, so that an upgrade
        finds both allowed. Raises EndpointFilesError for a function that is not there.
        """
        found = []
        for name in names:
            if name not in self.functions:
                raise EndpointFilesError(
                    f"{self.source} has no function {name!r} ({nearest(name, self.functions)}); register it with "
                    "'weft functions register'."
                )
            usable = [v.uuid for v in self.functions[name] if not v.ha_endpoint or v.ha_endpoint == endpoint_uuid]
            if not usable:
                raise EndpointFilesError(
                    f"Every version of {name!r} in {self.source} is of another high-assurance endpoint; register it "
                    "with 'weft functions register', and for a high-assurance one name this endpoint's UUID with "
                    "--set endpoint_uuid=UUID."
                )
            found += [(uuid, name) for uuid in usable]
        return found


def read_functions(path: Path) -> Functions:
    """What `weft functions register` wrote to this file. Raises EndpointFilesError."""
    tree = read_tree(path)
    try:
        functions = msgspec.convert({**tree, "source": str(path)}, Functions)
        for versions in functions.functions.values():
            for version in versions:
                uuid.UUID(version.uuid)
    except (msgspec.ValidationError, ValueError) as error:
        raise EndpointFilesError(f"{path} is not as 'weft functions register' writes it: {error}.") from error
    return functions
