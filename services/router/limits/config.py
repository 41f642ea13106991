"""The section `router.limits` of weft.yaml. Durations are in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where limits are counted, and what holds where a call or the store leaves it open."""

    store_url: str = ""
    """A server of Redis's protocol, `redis://` or `rediss://` (TLS), where several routers count together; empty: this
    router is the only one, and counts in its memory.
    """
    store_password_file: str = ""
    """The file that holds the store's password; relative to the home."""
    when_store_is_away: Literal["share", "refuse"] = "share"
    """`share`: each router goes on with its part of what was left; `refuse`: who has limits is told to come again."""
    routers: int = 1
    """How many routers share the store, at least: so many parts are made while it is away, more if more were seen."""
    answer_tokens: int = 4096
    """What an answer is taken to use at most where the caller says nothing of it."""
    prompt_overhead_tokens: int = 256
    """What a model's chat template may add to a prompt, beyond the bytes of the request."""
    unseen_tokens: int = 16384
    """What is reckoned for each thing that a request points to without holding its text: an image or a sound, also one
    in base64, a file, an earlier response.
    """
    on_excess: Literal["refuse", "clamp"] = "refuse"
    """Whether a call that may use more than is left is refused, or its answer is cut to what is left."""

    def __post_init__(self) -> None:
        """Raises ValueError for what would only fail later."""
        for name in ("routers", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{name}' must be at least 1")
        for name in ("prompt_overhead_tokens", "unseen_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"'{name}' must not be negative")
        if not self.store_url:
            return
        url = urlsplit(self.store_url)
        if url.scheme not in ("redis", "rediss", "unix"):
            # Not the URL itself: it may hold a password.
            raise ValueError("'store_url' must begin with redis://, rediss:// or unix://")
        if url.password:
            raise ValueError(
                "'store_url' must hold no password; put it into a file, and name that as 'store_password_file'"
            )
        if not (url.hostname or url.scheme == "unix"):
            raise ValueError("'store_url' names no host")

    def password(self, home: Path) -> str | None:
        """The store's password, if it has one. Raises OSError if its file cannot be read."""
        return (home / self.store_password_file).read_text().strip() if self.store_password_file else None
