"""HTTP endpoints: each is a `Server` of the roster as long as the catalogue has it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from services.core.catalogue import Catalogue, Endpoint, HttpBackend
from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.router.roster import Roster
from services.router.targets import HTTP, Server
from services.upstream.http import HttpInference, open_session

log = logging.getLogger(__name__)

_CHECK_INTERVAL: Final = 2.0


@dataclass(slots=True)
class _Attached:
    endpoint: Endpoint
    server: Server
    inference: HttpInference


class HttpEndpoints:
    """Keeps the roster in step with the catalogue's HTTP endpoints."""

    def __init__(self, roster: Roster, bounds: Bounds) -> None:
        self._roster = roster
        self._bounds = bounds
        self._attached: dict[str, _Attached] = {}
        self._retiring: dict[HttpInference, asyncio.Task[None]] = {}

    def follow(self, catalogue: Catalogue) -> None:
        """Attaches what is new in the catalogue, and lets go of what is gone or changed."""
        wanted = {
            name: endpoint
            for name, endpoint in catalogue.endpoints.items()
            if isinstance(endpoint.backend, HttpBackend)
        }
        for name, attached in list(self._attached.items()):
            if wanted.get(name) is None or wanted[name].backend != attached.endpoint.backend:
                self._let_go(self._attached.pop(name))
        for name, endpoint in wanted.items():
            if name not in self._attached:
                self._attached[name] = self._attach(endpoint)
            server = self._attached[name].server
            server.models = {binding.served_model or binding.model: "" for binding in endpoint.models}

    async def watch(self) -> None:
        """Looks again at those that could not be reached, until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_INTERVAL)
            for attached in list(self._attached.values()):
                if not attached.server.ready and await _answers(attached.inference):
                    attached.server.ready = True
                    self._roster.refresh()

    async def close(self) -> None:
        """Ends all, with the calls that are open."""
        for attached in self._attached.values():
            self._let_go(attached)
        self._attached.clear()
        retiring = dict(self._retiring)
        await asyncio.gather(*(inference.close() for inference in retiring))
        await asyncio.gather(*retiring.values())

    def _attach(self, endpoint: Endpoint) -> _Attached:
        backend = endpoint.backend
        assert isinstance(backend, HttpBackend)
        bounds = self._bounds.within(backend.timeout, None).inner()
        inference = HttpInference(
            open_session(backend.url), backend.url, what=f"'{endpoint.name}'", bounds=bounds, api_key=_api_key(backend)
        )
        server = Server(endpoint.name, backend.url, inference, ready=True, carrier=HTTP)
        self._roster.add(server)
        return _Attached(endpoint, server, inference)

    def _let_go(self, attached: _Attached) -> None:
        """No new calls for it; the open ones finish, whose callers know nothing of the catalogue's change."""
        self._roster.remove(attached.server)
        inference = attached.inference
        task = asyncio.get_running_loop().create_task(inference.retire())
        self._retiring[inference] = task
        task.add_done_callback(lambda _: self._retiring.pop(inference))


async def _answers(inference: HttpInference) -> bool:
    try:
        async with inference.session.get(inference.base + "/v1/models", timeout=aiohttp.ClientTimeout(total=5)):
            return True  # Whatever it says: it is there. What it says to calls reaches the callers.
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _api_key(backend: HttpBackend) -> Callable[[], str] | None:
    """Reads the key at each call, so that a rotated one is taken up."""
    if backend.api_key_file:
        return lambda: _read_key(Path(backend.api_key_file))
    if backend.api_key_env:
        return lambda: _key_in_environment(backend.api_key_env)
    return None


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        log.error("an endpoint's key cannot be read from %s: %s", path, error.strerror)
        raise ServiceError(Reason.UPSTREAM_UNREACHABLE, "The router has no key for this endpoint.") from error


def _key_in_environment(name: str) -> str:
    key = os.environ.get(name)
    if not key:
        log.error("an endpoint's key is not in the environment variable %s", name)
        raise ServiceError(Reason.UPSTREAM_UNREACHABLE, "The router has no key for this endpoint.")
    return key
