"""Pages of a list that is in memory (https://google.aip.dev/158)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from services.core.errors import Reason, ServiceError

Item = TypeVar("Item")

LARGEST_PAGE: Final = 1000


def page(items: Sequence[Item], key: Callable[[Item], str], size: int, token: str) -> tuple[list[Item], str]:
    """The items behind the token, in the order of their keys, and the token of the page after; empty if there is none.

    Raises ARGUMENT_INVALID for a negative size or a token that is none of ours.
    """
    if size < 0:
        raise ServiceError(Reason.ARGUMENT_INVALID, "'page_size' must not be negative.", param="page_size")
    try:
        after = base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        message = "'page_token' is not one that the last response gave."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="page_token") from error
    rest = [item for item in sorted(items, key=key) if not token or key(item) > after]
    size = min(size or LARGEST_PAGE, LARGEST_PAGE)
    more = len(rest) > size
    return rest[:size], base64.urlsafe_b64encode(key(rest[size - 1]).encode()).decode() if more else ""
