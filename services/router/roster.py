"""Who is there: joins the catalogue with the servers that are attached, and wakes calls that wait for a change."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from services.core.catalogue import Catalogue, Endpoint
from services.router.plan import may_take
from services.router.targets import Launchable, Server, Sought, Target, TargetIndex, build_index
from services.router.waiting import WaitingCalls

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
        self.waiting_calls = WaitingCalls()
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
        former, self._catalogue = self._catalogue or catalogue, catalogue
        self.refresh()
        if (former.clusters, former.routes) != (catalogue.clusters, catalogue.routes):
            # Whoever waits may be permitted other endpoints now, or none; only its own next attempt can tell.
            for sought in self.waiting_calls.counts:
                self.waiting_calls.wake_all(sought)

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
        former, self._index = self._index, build_index(self._catalogue, self._servers, self._remembered)
        self._stir(former)

    def _stir(self, former: TargetIndex) -> None:
        """Wakes those who wait: all to whom it is another matter now, of the others as many as can go."""
        waiting, index = self.waiting_calls, self._index
        can_go = []
        for sought in waiting.counts:
            targets, launchable = self._permitted(sought), index.launchable(sought)
            closed = all(target.closed for target in targets or ()) and all(one.closed for one in launchable)
            if (
                targets is None
                or (targets and closed)
                or index.serving(*sought[:3]) != former.serving(*sought[:3])
                or _places(launchable) != _places(former.launchable(sought))
                or index.served_alone != former.served_alone
            ):
                waiting.wake_all(sought)
            else:
                can_go.append(sought)
        waiting.wake_in_order(can_go, self._can_go)

    def _can_go(self, sought: Sought) -> bool:
        return any(may_take(target, sought) for target in self.find(*sought[:3]) or ())

    def _permitted(self, sought: Sought) -> list[Target] | None:
        """The targets of what is sought that its callers may use; None if nobody knows it."""
        targets, permitted = self.find(*sought[:3]), sought.endpoints
        if targets is None:
            return None
        return [target for target in targets if permitted is None or target.server.endpoint in permitted]

    def find(self, model: str, cluster: str = "", framework: str = "") -> tuple[Target, ...] | None:
        """The targets of a model; None if nobody knows it."""
        return self._index.find(model, cluster, framework)

    @property
    def index(self) -> TargetIndex:
        """The present index; another whenever anything has changed."""
        return self._index

    def serving(self, model: str, cluster: str = "", framework: str = "") -> tuple[Endpoint, ...] | None:
        """The endpoints that a model leads to, with or without a server; None if nobody knows it."""
        return self._index.serving(model, cluster, framework)

    def models_of(self, endpoint: Endpoint) -> tuple[str, ...]:
        """The public names of an endpoint's models: those that it lists, else those that its workers reported."""
        return tuple(binding.model for binding in endpoint.models) or tuple(self._remembered.get(endpoint.name, ()))

    @property
    def models(self) -> tuple[str, ...]:
        """The public names of all models, in order."""
        return tuple(sorted(self._index.by_route))

    def sought(
        self, model: str, cluster: str, framework: str, caller: str, endpoints: frozenset[str] | None = None
    ) -> Sought:
        """What a call of the principal `caller` seeks, at the endpoints that it may use; None for all."""
        return Sought(model, cluster, framework, caller if caller in self._index.served_alone else "", endpoints)

    def launchable(self, sought: Sought) -> tuple[Launchable, ...]:
        """The endpoints where a worker that takes the call can be started, closed ones among them."""
        return self._index.launchable(sought)

    @property
    def launchables(self) -> tuple[Launchable, ...]:
        """All endpoints where workers can be started."""
        return self._index.launchables

    @property
    def waiting(self) -> int:
        """How many calls wait for a change."""
        return len(self.waiting_calls)

    def freed(self, server: Server) -> None:
        """A server that was full is so no longer: those that have waited longest for it may go."""
        if self.waiting_calls:
            self._let_go(server)

    def heard(self, server: Server) -> None:
        """A server says that it is well, as it was: a call that failed there meanwhile may try again. A model server
        that was restarted between two reports shows in nothing else.
        """
        if self.waiting_calls:
            self._let_go(server)

    def state_changed(self, endpoints: frozenset[str]) -> None:
        """The starts of these endpoints' workers are in another state: those who wait for them are told."""
        for sought in self.waiting_calls.counts:
            if any(one.endpoint in endpoints for one in self.launchable(sought)):
                for waiter in list(self.waiting_calls.of(sought)):
                    waiter.state_changed()

    def _let_go(self, server: Server) -> None:
        self.waiting_calls.wake_in_order(self._seeking(server), lambda sought: self._takes(server, sought))

    def _seeking(self, server: Server) -> list[Sought]:
        """What is waited for, of that which the server serves."""
        return [
            sought
            for sought in self.waiting_calls.counts
            if any(target.server is server for target in self.find(*sought[:3]) or ())
        ]

    def _takes(self, server: Server, sought: Sought) -> bool:
        return any(target.server is server and may_take(target, sought) for target in self.find(*sought[:3]) or ())


def _places(launchable: Iterable[Launchable]) -> list[tuple[str, str]]:
    return [(one.endpoint, one.closed) for one in launchable]
