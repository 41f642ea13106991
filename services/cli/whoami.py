"""`weft whoami`: who the gateway says that one is."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import aiohttp
import typer

from services.cli.connection import TIMEOUT, facade_url, read_key
from services.cli.failures import CommandError
from services.cli.login_config import LoginConfig
from services.cli.settings import load

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_SHOWN = {
    "username": "user",
    "name": "name",
    "id": "id",
    "idp_name": "identity provider",
    "auth_service": "known by",
    "user_group_uuids": "groups",
}


@app.command()
def whoami(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Ask the gateway who you are, by your key or your login."""
    config = load()
    url = config.section("login", LoginConfig).url.rstrip("/")
    told = asyncio.run(_ask(url or facade_url(config), read_key(config, elsewhere=bool(url))))
    if as_json:
        print(json.dumps(told, indent=2))
        return
    for field, label in _SHOWN.items():
        if value := told.get(field):
            print(f"{label:18} {', '.join(value) if isinstance(value, list) else value}")


async def _ask(url: str, key: str) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}, timeout=timeout) as session,
            session.get(f"{url}/resource_server/whoami") as answer,
        ):
            told: dict[str, Any] = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        raise CommandError(f"The gateway at {url} does not answer; look with 'weft doctor'.") from None
    if answer.status != 200:
        raise CommandError(str(told.get("error", {}).get("message") or f"{url} answers {answer.status}."))
    return told
