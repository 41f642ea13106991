"""What is known of registered functions: in the file, and if one runs, in the registry."""

from __future__ import annotations

from pathlib import Path

from weft.registry.v1 import registry_pb2

from services.cli.function_file import read_file, write_file
from services.cli.function_plan import kept, merged
from services.cli.resources import call, list_all
from services.core.globus import Function, FunctionVersion
from services.rpc.globus import function_from_proto, function_to_proto


class FunctionBook:
    """The registrations by the resource name of their function, newest first.

    What stands in the file or in the registry is known; so what was registered while no registry ran comes into it at
    the next time.
    """

    def __init__(self, file: Path, *, registry: bool) -> None:
        """Reads both. Raises `CommandError`, and `ServiceError` if a registry is wanted and does not answer."""
        self.file = file
        self.versions = read_file(file)
        self._registry = registry
        self._etags: dict[str, str] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._kept_there: dict[str, tuple[FunctionVersion, ...]] = {}
        if registry:
            for proto in list_all("ListFunctions", registry_pb2.ListFunctionsRequest(), "functions"):
                function = function_from_proto(proto)
                self._etags[proto.name], self._labels[proto.name] = proto.etag, dict(proto.labels)
                self._kept_there[proto.name] = function.versions
                self.versions[proto.name] = merged(self.versions.get(proto.name, ()), function.versions)

    def add(self, name: str, version: FunctionVersion, *, keep: int) -> None:
        """Takes a registration up, and writes the file at once: Globus Compute has it, whatever fails next."""
        self.versions[name] = kept((version, *self.versions.get(name, ())), keep)
        write_file(self.file, self.versions)

    def drop(self, name: str, uuids: frozenset[str]) -> None:
        """Forgets registrations that are no more."""
        self.versions[name] = tuple(version for version in self.versions.get(name, ()) if version.uuid not in uuids)

    def save(self) -> None:
        """Writes both. Raises `ServiceError`; RESOURCE_CHANGED if somebody else has registered meanwhile."""
        write_file(self.file, self.versions)
        changed = [name for name, versions in self.versions.items() if self._kept_there.get(name, ()) != versions]
        if not self._registry or not changed:
            return
        request = registry_pb2.ApplyRequest()
        for name in changed:
            proto = function_to_proto(Function(name, self.versions[name], self._labels.get(name, {})))
            proto.etag = self._etags.get(name, "")
            request.functions.append(proto)
        call("Apply", request)
