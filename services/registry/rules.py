"""The rules that fields of many resources share. Each complaint names the field and says what it must be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NoReturn, TypeVar
from urllib.parse import urlsplit

from services.core.errors import Reason, ServiceError

_Item = TypeVar("_Item")

MAX_TEXT: Final = 10_000
"""Characters of a sentence or a description."""
MAX_WORD: Final = 500
"""Characters of a model's name, a URL, a label."""
MAX_ITEMS: Final = 1000
"""Items of a list."""

ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")


def refuse(param: str, rule: str) -> NoReturn:
    """Raises ARGUMENT_INVALID: the field, and what it must be."""
    raise ServiceError(Reason.ARGUMENT_INVALID, f"'{param}' {rule}.", param=param)


def check_text(text: str, param: str) -> None:
    """A sentence or more, for people."""
    if len(text) > MAX_TEXT:
        refuse(param, f"must have at most {MAX_TEXT} characters")


def check_word(word: str, param: str) -> None:
    """A name of any kind, that must be there."""
    if not word or len(word) > MAX_WORD or not word.isprintable() or word != word.strip():
        refuse(param, f"must be 1 to {MAX_WORD} printable characters without spaces around them")


def check_each(values: Sequence[str], pattern: re.Pattern[str], rule: str, param: str) -> None:
    """A list whose items match a pattern, no two alike."""
    seen: set[str] = set()
    for index, value in enumerate(bounded(values, param)):
        if len(value) > MAX_WORD or pattern.fullmatch(value) is None:
            refuse(f"{param}[{index}]", f"must be {rule}; it is {value[:100]!r}")
        if value in seen:
            refuse(f"{param}[{index}]", f"names {value!r} a second time; name each once")
        seen.add(value)


def bounded(items: Sequence[_Item], param: str) -> Sequence[_Item]:
    """The items, if they are not too many."""
    if len(items) > MAX_ITEMS:
        refuse(param, f"must have at most {MAX_ITEMS} items")
    return items


def check_url(url: str, param: str, *, query: bool = False) -> None:
    """The URL of a server, without credentials; with `query`, it may have one."""
    rule = "must be a URL like 'http://gpu7:8000' or 'https://api.example.org'"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        refuse(param, rule)
    printable = len(url) <= MAX_WORD and url.isprintable() and " " not in url
    if not printable or parts.scheme not in ("http", "https") or not parts.hostname:
        refuse(param, rule)
    if "@" in parts.netloc:
        refuse(param, "must hold no credentials; put the key into a file and name it in 'api_key_file'")
    if parts.fragment or (parts.query and not query):
        refuse(param, "must end with its path, without '?' and '#'")
