"""Globus Groups, as much as `get_my_groups` needs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.testing.globus_auth.records import GROUPS, VIEW_GROUPS, App, Person

if TYPE_CHECKING:
    from tests.testing.globus_auth.stand_in import GlobusAuth


class GroupRoutes:
    """The routes of Globus Groups."""

    def __init__(self, state: GlobusAuth) -> None:
        self._state = state

    def routes(self) -> list[web.AbstractRouteDef]:
        """What is answered."""
        return [web.get("/v2/groups/my_groups", self._my_groups)]

    async def _my_groups(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        grant = self._state.tokens.get(token)
        if grant is None or grant.resource_server != GROUPS or grant.expires <= time.time():
            return web.json_response({"errors": [{"code": "AUTHENTICATION_ERROR"}]}, status=401)
        if VIEW_GROUPS not in grant.scopes:
            return web.json_response({"errors": [{"code": "MISSING_SCOPES"}]}, status=403)
        asked = request.query.get("statuses")
        statuses = asked.split(",") if asked else None
        groups = [
            _group(grant.owner, group, status)
            for group, status in grant.owner.memberships.items()
            if statuses is None or status in statuses
        ]
        return web.json_response(groups)


def _group(member: Person | App, group: str, status: str) -> dict[str, Any]:
    """A group as Globus Groups tells it to one of its members."""
    who = member.identities[0] if isinstance(member, Person) else member
    return {
        "id": group,
        "name": f"Group {group[:8]}",
        "parent_id": None,
        "group_type": "regular",
        "enforce_session": False,
        "session_limit": 28800,
        "session_timeouts": {},
        "my_memberships": [
            {"group_id": group, "identity_id": who.id, "username": who.username, "role": "member", "status": status}
        ],
        "policies": {"group_visibility": "private", "group_members_visibility": "managers"},
    }
