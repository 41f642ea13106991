"""Envoy's administration, as far as it is needed to start and to stop one."""

from __future__ import annotations

import aiohttp

from services.edge.listeners import GRPC, HTTPS


class Admin:
    """Asks at `address`. Raises aiohttp.ClientError where nobody answers; how long it may take is the caller's affair:
    a busy Envoy is late, and to give up on one would be to cut its calls.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._url = f"http://{address}"

    async def ready(self) -> bool:
        """Whether Envoy has looked at all parts of the mesh, and listens."""
        try:
            async with self._session.get(f"{self._url}/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def discourage(self) -> None:
        """From now on clients are told to take their next request elsewhere: `connection: close`, or GOAWAY."""
        await self._post("drain_listeners?graceful&skip_exit")

    async def stop_listening(self) -> None:
        """Takes no new connections; those that are there go on."""
        await self._post("drain_listeners")

    async def open_calls(self) -> int:
        """Requests that have not ended, of both fronts."""
        return await self._sum("downstream_rq_active")

    async def connections(self) -> int:
        """Connections of clients, of both fronts."""
        return await self._sum("downstream_cx_active")

    async def _sum(self, gauge: str) -> int:
        wanted = {"filter": rf"^http\.({HTTPS}|{GRPC})\.{gauge}$", "format": "json"}
        async with self._session.get(f"{self._url}/stats", params=wanted) as answer:
            stats = (await answer.json(content_type=None))["stats"]
        return sum(int(stat["value"]) for stat in stats if "value" in stat)

    async def _post(self, what: str) -> None:
        async with self._session.post(f"{self._url}/{what}") as answer:
            answer.raise_for_status()
