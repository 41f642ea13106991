"""Pages of a list: a token holds the last name that the page before it gave."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from services.core.errors import Reason, ServiceError

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


def from_token(token: str, prefix: str) -> str:
    """The name to go on after. Raises ARGUMENT_INVALID if the token was not given for names that begin so."""
    if not token:
        return ""
    try:
        last = base64.urlsafe_b64decode(token.encode("ascii")).decode()
    except (binascii.Error, UnicodeError):
        last = ""
    if not last.startswith(prefix):
        message = "'page_token' must be the 'next_page_token' of an answer to the same request; leave it out to begin."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="page_token")
    return last
