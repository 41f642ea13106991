"""Errors in the form of the service, as its clients read them."""

from __future__ import annotations

from aiohttp import web


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.code, self.reason = status, code, reason


def refusal(status: int, code: str, reason: str) -> web.Response:
    """The service's answer to what it will not do."""
    body = {"status": "Failed", "code": code, "reason": reason, "http_status_code": status}
    return web.json_response(body, status=status)
