"""How many bytes a client still takes, and who may send them: the server that answers, or the comments before; pure."""

from __future__ import annotations

from typing import Final

_MOST: Final = 4096


class Credit:
    """A client's credit. `left` is all of it, `kept` what of it a server that has the call was not given.

    What a server was given it may send at any time: comments beside it can be paid only from what was kept. Once the
    answer has begun there are no more comments, and what is kept goes to the server with what the client grants next,
    or when the server has used up the rest.
    """

    __slots__ = ("_begun", "_lent", "_shared", "kept", "left")

    def __init__(self, granted: int, *, shared: bool) -> None:
        """`shared` tells that there may be comments."""
        self.left = granted
        self.kept = 0
        self._shared = shared
        self._lent = False
        self._begun = False

    @property
    def lent(self) -> int:
        """What the server that has the call may send now."""
        return self.left - self.kept

    @property
    def room(self) -> int:
        """How long a comment may be. Comments always leave something to the server that is to come."""
        return self.kept if self._lent else self.left - self._share()

    def lend(self) -> int:
        """A server gets the call; returns what it may send."""
        self._lent = True
        self.kept = self._share()
        return self.lent

    def take_back(self) -> None:
        """The server has failed, and sent nothing."""
        self._lent = False
        self.kept = 0

    def begin(self) -> None:
        """The answer begins."""
        self._begun = True

    def grant(self, credit: int) -> int:
        """The client takes so many bytes more; returns how many more a server that has the call may send."""
        self.left += credit
        if not self._lent:
            return 0
        if self._begun:
            return credit + self.release()
        keep = max(0, min(credit, self._share() - self.kept))
        self.kept += keep
        return credit - keep

    def comment(self, size: int) -> None:
        """A comment has been made."""
        self.left -= size
        if self._lent:
            self.kept -= size

    def release(self) -> int:
        """Gives what was kept to the server."""
        kept, self.kept = self.kept, 0
        return kept

    def _share(self) -> int:
        return min(_MOST, self.left // 4) if self._shared else 0
