"""Auth does not outlive what it runs in the background."""

import asyncio

import pytest

from services.auth.main import _until


async def _fails() -> None:
    raise RuntimeError("a fault")


async def test_a_task_that_fails_ends_auth() -> None:
    with pytest.raises(RuntimeError, match="a fault"):
        await _until(asyncio.Event(), [asyncio.ensure_future(_fails())])


async def test_auth_stops_when_it_is_told_to() -> None:
    stopping, task = asyncio.Event(), asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(stopping.set)
    await _until(stopping, [task])
    assert not task.done(), "whoever made it ends it"
    task.cancel()
