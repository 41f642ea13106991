"""Errors as they leave an RPC."""

from __future__ import annotations

from typing import NoReturn

import grpc
import pytest

from services.core.errors import Reason, ServiceError
from services.rpc.status import NOT_BEGUN, abort


class AbortedError(Exception):
    """What an RPC was ended with."""


class Context:
    def trailing_metadata(self) -> None:
        """Nothing is set."""

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[tuple[str, str | bytes], ...]
    ) -> NoReturn:
        raise AbortedError(code, dict(trailing_metadata))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ServiceError(Reason.SHUTTING_DOWN, retry_after=1.0), True),
        (ServiceError(Reason.SHUTTING_DOWN), False),  # of a call that has begun
        (ServiceError(Reason.NO_WORKER, retry_after=1.0), False),
        (ServiceError(Reason.OVERLOADED, retry_after=1.0), False),
    ],
)
async def test_a_proxy_is_told_of_calls_that_were_not_begun(error: ServiceError, said: bool) -> None:
    with pytest.raises(AbortedError) as raised:
        await abort(Context(), error)
    _, metadata = raised.value.args
    assert (NOT_BEGUN in metadata) == said
