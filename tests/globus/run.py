"""One run of the tests: its folder, its mark, its users, and its end."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from services.runtime.child import ChildSpec
from tests.globus import janitor
from tests.testing.processes import Part


class Run:
    """What belongs to one run of the tests and ends with it. `folder` can be entered by every user. `logs` tells the
    end of each part's log, by its name; they stand in the reports of tests that fail.
    """

    def __init__(self) -> None:
        self.name = secrets.token_hex(3)
        # Not in pytest's temporary folders: only their owner may enter those.
        self.folder = Path(tempfile.mkdtemp(prefix="weft-globus-"))
        self.folder.chmod(0o755)
        self.logs: dict[str, Callable[[], str]] = {}
        self._parts: list[Part] = []
        self._janitor = subprocess.Popen(
            [sys.executable, "-I", "-S", janitor.__file__, self.name, str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def marks(self) -> dict[str, str]:
        """What every process of the run has in its environment. Titles are set beside it, not over it."""
        return {janitor.MARK: self.name, "SPT_NOENV": "1"}

    def part(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        *,
        user: str | None = None,
        announces: bool = False,
    ) -> Part:
        """A process, not started yet, of another user if one is named. It ends with the run at the latest."""
        words = [*as_user(user), *command] if user else command
        spec = ChildSpec(
            name, words, self.folder / "logs" / f"{name}.log", {**self.marks, **(environ or {})}, announces=announces
        )
        part = Part(spec)
        self._parts.append(part)
        self.logs[name] = lambda: part.log
        return part

    def user(self, name: str) -> str:
        """Makes a user of this machine, with a home in the run's folder, and gives its name. Only root can."""
        user = f"weft-{name}-{self.name}"
        try:
            pwd.getpwnam(user)
        except KeyError:
            home = self.folder / "home" / user
            home.parent.mkdir(exist_ok=True)
            subprocess.run(
                ["useradd", "--create-home", "--home-dir", str(home), "--shell", "/bin/bash", "--no-log-init", user],
                check=True,
                capture_output=True,
            )
        return user

    def own(self, folder: Path, user: str | None) -> None:
        """Gives a folder with all that is in it to a user."""
        if user:
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, user, user)

    def close(self) -> None:
        """Has the janitor end everything; nothing of the run needs to end in good order."""
        assert self._janitor.stdin is not None
        self._janitor.stdin.close()
        self._janitor.wait(180)  # It kills for ten seconds, and removes whole environments and checkouts.
        for part in self._parts:
            part.clear_away()


def as_user(name: str) -> list[str]:
    """The words before a command that run it as another user, tied to the life of who starts it as before."""
    if os.geteuid() != 0:
        raise PermissionError(f"only root can run something as {name}")
    return ["setpriv", "--reuid", name, "--regid", name, "--init-groups", "--pdeathsig", "TERM", "--"]
