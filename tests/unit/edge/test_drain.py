"""Envoy's end, as its administration is asked for it: over a real socket."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.edge.admin import Admin
from services.edge.run import drain

SOON = 20.0


class Envoy:
    """An administration with one open call, which answers a question when it is let."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.open_calls = 1

    async def answer(self, request: web.Request) -> web.Response:
        if request.path != "/stats":
            return web.Response()
        self.asked.set()
        await self.may_answer.wait()
        calls = self.open_calls if "downstream_rq" in request.query["filter"] else 0
        return web.json_response({"stats": [{"name": "http.https.downstream_rq_active", "value": calls}]})


async def test_a_busy_envoy_that_is_late_with_its_answers_keeps_its_calls(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    envoy, loop, ahead = Envoy(), asyncio.get_running_loop(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)
    app = web.Application()
    app.router.add_route("*", "/{any}", envoy.answer)
    async with TestServer(app) as server, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as session:
        draining = asyncio.ensure_future(drain(Admin(session, f"{server.host}:{server.port}"), 60.0))
        async with asyncio.timeout(SOON):
            await envoy.asked.wait()
        ahead = 30.0
        for _ in range(10):
            await asyncio.sleep(0)
        assert not draining.done()
        envoy.open_calls = 0
        envoy.may_answer.set()
        async with asyncio.timeout(SOON):
            await draining
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_calls_are_cut_when_the_time_is_over_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    envoy = Envoy()
    app = web.Application()
    app.router.add_route("*", "/{any}", envoy.answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        async with asyncio.timeout(SOON):
            await drain(Admin(session, f"{server.host}:{server.port}"), 0.05)
        envoy.may_answer.set()
    assert "calls were still open" in caplog.text
