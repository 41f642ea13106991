"""Who is there: joins the catalogue with the servers that are attached, and wakes the calls that wait for a change."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from services.core.catalogue import Catalogue
from services.router.targets import Server, Target, TargetIndex, build_index

_REMEMBERED_MODELS: Final = 64
"""Per endpoint: models that a worker served before, and that are missed rather than unknown while it is away."""


class Roster:
    """The present catalogue and servers. Every change makes a new index and tells the waiting.

    For `settle` seconds after the start a model that nobody has named yet may still be on its way: workers are dialling
    again.
    """

    def __init__(self, *, settle: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._settled_at = clock() + settle
        self._catalogue: Catalogue | None = None
        self._servers: dict[Server, None] = {}
        self._remembered: dict[str, OrderedDict[str, None]] = {}
        self._waiting: dict[Callable[[], None], tuple[str, str, str]] = {}
        self._index = TargetIndex({}, {})

    @property
    def catalogue(self) -> Catalogue | None:
        """The catalogue; None until the registry has given it."""
        return self._catalogue

    @property
    def servers(self) -> tuple[Server, ...]:
        """Whoever is attached."""
        return tuple(self._servers)

    @property
    def settled(self) -> bool:
        """Whether a model that is unknown now is unknown for good."""
        return self._clock() >= self._settled_at

    @property
    def settles_in(self) -> float:
        """Seconds until it is."""
        return max(0.0, self._settled_at - self._clock())

    def set_catalogue(self, catalogue: Catalogue) -> None:
        """The registry has spoken."""
        self._catalogue = catalogue
        self.refresh()

    def add(self, server: Server) -> None:
        """A worker has attached, or an HTTP endpoint has appeared."""
        self._servers[server] = None
        self.refresh()

    def remove(self, server: Server) -> None:
        """It is gone."""
        self._servers.pop(server, None)
        self.refresh()

    def refresh(self) -> None:
        """Something about a server has changed that planning looks at."""
        if self._catalogue is None:
            return
        for server in self._servers:
            remembered = self._remembered.setdefault(server.endpoint, OrderedDict())
            for model in server.models:
                remembered[model] = None
                remembered.move_to_end(model)
            while len(remembered) > _REMEMBERED_MODELS:
                remembered.popitem(last=False)
        for gone in self._remembered.keys() - self._catalogue.endpoints.keys():
            del self._remembered[gone]
        self._index = build_index(self._catalogue, self._servers, self._remembered)
        waiting, self._waiting = self._waiting, {}
        for wake in waiting:
            wake()

    def find(self, model: str, cluster: str = "", framework: str = "") -> tuple[Target, ...] | None:
        """The targets of a model; None if nobody knows it."""
        return self._index.find(model, cluster, framework)

    @property
    def models(self) -> tuple[str, ...]:
        """The public names of all models, in order."""
        return tuple(sorted(self._index.by_route))

    @property
    def waiting(self) -> int:
        """How many wait for a change."""
        return len(self._waiting)

    def wait(self, wake: Callable[[], None], model: str, cluster: str, framework: str) -> None:
        """Has `wake` called, once, when something changes that may give the call a server."""
        self._waiting[wake] = (model, cluster, framework)

    def freed(self, server: Server) -> None:
        """A server that was full is so no longer: the one that has waited longest for it may go."""
        for wake, wanted in self._waiting.items():
            if any(target.server is server for target in self.find(*wanted) or ()):
                del self._waiting[wake]
                wake()
                return

    def heard(self, server: Server) -> None:
        """A server says that it is well, as it was: a call that failed there meanwhile may try again. A model server
        that was restarted between two reports shows in nothing else.
        """
        for wake, wanted in list(self._waiting.items()):
            if wake in self._waiting and any(target.server is server for target in self.find(*wanted) or ()):
                del self._waiting[wake]
                wake()

    def leave(self, wake: Callable[[], None]) -> None:
        """Waits no longer."""
        self._waiting.pop(wake, None)
