"""Pages of lists (https://google.aip.dev/158): a token holds the last name that the page before it gave."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from services.core.errors import Reason, ServiceError

Item = TypeVar("Item")

DEFAULT_SIZE: Final = 100
LARGEST_SIZE: Final = 1000


def page_size(asked: int) -> int:
    """How many to give. Raises ARGUMENT_INVALID for less than none."""
    if asked < 0:
        raise ServiceError(Reason.ARGUMENT_INVALID, "'page_size' must be 0 or more.", param="page_size")
    return min(asked or DEFAULT_SIZE, LARGEST_SIZE)


def to_token(last: str) -> str:
    """The token of the page that follows a name."""
    return base64.urlsafe_b64encode(last.encode()).decode()


def from_token(token: str, prefix: str = "") -> str:
    """The name to go on after. Raises ARGUMENT_INVALID if the token was not given for names that begin so."""
    if not token:
        return ""
    try:
        last = base64.urlsafe_b64decode(token.encode("ascii")).decode()
    except (binascii.Error, UnicodeError):
        last = ""
    if not last or not last.startswith(prefix):
        message = "'page_token' must be the 'next_page_token' of an answer to the same request; leave it out to begin."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="page_token")
    return last


def page(items: Sequence[Item], key: Callable[[Item], str], size: int, token: str) -> tuple[list[Item], str]:
    """The next page of a list that is in memory, in the order of the keys, and the token of the page after."""
    size = page_size(size)
    after = from_token(token)
    rest = [item for item in sorted(items, key=key) if key(item) > after]
    return rest[:size], to_token(key(rest[size - 1])) if len(rest) > size else ""
