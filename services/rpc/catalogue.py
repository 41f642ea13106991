"""Keeps the registry's catalogue at hand: watched while the registry is there, remembered while it is away."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from weft.registry.v1 import registry_pb2, registry_pb2_grpc

from services.core.catalogue import Catalogue
from services.core.errors import Reason, ServiceError
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error
from services.rpc.resources import catalogue_from_proto, catalogue_to_proto, changes_from_proto
from services.rpc.wire import PLAIN, Wire

log = logging.getLogger(__name__)

FIRST_BACKOFF: Final = 0.1
LONGEST_BACKOFF: Final = 2.0
SILENCE: Final = 15.0
"""Seconds without a message after which the registry is taken for dead; it sends one every five at least."""


class CatalogueWatcher:
    """Watches the registry at `address`, and hands each new catalogue to `changed`.

    While the registry is away the last catalogue stays `current`, and with a `file` it also outlives this process.
    `key` gives the credential for each attempt, so that a rotated one is taken up; it may raise OSError.
    """

    def __init__(
        self,
        address: str,
        key: Callable[[], str],
        *,
        changed: Callable[[Catalogue], None] = lambda catalogue: None,
        file: Path | None = None,
        silence: float = SILENCE,
        wire: Wire = PLAIN,
    ) -> None:
        self.current: Catalogue | None = None
        self.connected = False
        self.heard_at = time.monotonic()
        """When the registry last said anything, else since when it is waited for."""
        self._address = address
        self._key = key
        self._changed = changed
        self._file = file
        self._silence = silence
        self._wire = wire
        self._revision = ""
        self._first = asyncio.Event()
        self._backoff = FIRST_BACKOFF
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Takes up what the file holds, and begins to watch."""
        if self._file is not None and (kept := _load(self._file)) is not None:
            # Not its revision: what this version of us could not read when it was kept, a newer one may.
            self._publish(catalogue_from_proto(kept.snapshot))
        self._task = asyncio.get_running_loop().create_task(self._run(), name="catalogue watcher")

    async def wait_first(self) -> Catalogue:
        """Waits until there is a catalogue, and returns it."""
        await self._first.wait()
        if self.current is None:
            raise RuntimeError("the watcher has no catalogue although it said so")
        return self.current

    async def close(self) -> None:
        """Ends the watching. The last catalogue stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        said = ""
        while True:
            try:
                await self._watch()
                problem = "it ended the stream"
            except TimeoutError:
                problem = f"no message came for {self._silence:g} s"
            except grpc.RpcError as error:
                problem = from_rpc_error(error, unavailable=Reason.REGISTRY_UNAVAILABLE).message
            except (OSError, ServiceError) as error:  # no key to show yet
                problem = str(error)
            if self.connected or problem != said:  # once, not at each of many attempts
                log.warning("the registry at %s is away: %s", self._address, problem)
                said = problem
            self.connected = False
            await asyncio.sleep(self._backoff * random.uniform(0.5, 1.0))
            self._backoff = min(self._backoff * 2, LONGEST_BACKOFF)

    async def _watch(self) -> None:
        # A connection of its own each time: gRPC would otherwise hand the dead one of a silent host out again.
        async with self._wire.dial(self._address, "registry", ("grpc.use_local_subchannel_pool", 1)) as channel:
            stub = registry_pb2_grpc.RegistryServiceStub(channel)
            stream = stub.Watch(registry_pb2.WatchRequest(revision=self._revision), metadata=bearer(self._key()))
            while True:
                async with asyncio.timeout(self._silence):
                    message = await stream.read()
                if not isinstance(message, registry_pb2.WatchResponse):
                    return
                self.heard_at = time.monotonic()
                if not self.connected:
                    self.connected = True
                    self._backoff = FIRST_BACKOFF
                    log.info("watching the registry", extra={"address": self._address})
                await self._take(message)

    async def _take(self, message: registry_pb2.WatchResponse) -> None:
        if message.HasField("snapshot"):
            catalogue = catalogue_from_proto(message.snapshot)
        elif message.changes:
            catalogue = (self.current or Catalogue()).apply(changes_from_proto(message.changes))
        else:
            return
        self._revision = message.revision
        self._publish(catalogue)
        if self._file is not None:
            await self._keep(self._file, catalogue)

    def _publish(self, catalogue: Catalogue) -> None:
        self.current = catalogue
        self._first.set()
        self._changed(catalogue)

    async def _keep(self, file: Path, catalogue: Catalogue) -> None:
        kept = registry_pb2.WatchResponse(revision=self._revision, snapshot=catalogue_to_proto(catalogue))
        try:
            await asyncio.to_thread(_save, file, kept.SerializeToString())
        except OSError as error:
            log.warning("cannot keep the catalogue in %s: %s", file, error.strerror)


def _load(file: Path) -> registry_pb2.WatchResponse | None:
    try:
        kept = registry_pb2.WatchResponse.FromString(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, DecodeError) as error:
        log.warning("the catalogue kept in %s cannot be read: %s", file, error)
        return None
    # An empty file reads as an empty message.
    return kept if kept.HasField("snapshot") else None


def _save(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place, so that nobody reads half of it.
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_bytes(content)
    fresh.replace(file)
