"""A site as its administrators have set it up: the endpoint's environment with Weft beside it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.globus.run import Run
from tests.vllm.worker import install_weft


@dataclass(frozen=True, slots=True)
class Site:
    """`python` is that of the endpoint's environment, `weft` the folder that Weft's wheel is unpacked in."""

    python: Path
    weft: Path

    @property
    def path(self) -> str:
        """PATH for agents and jobs: the agent's programs, `weft`, and the system's."""
        return f"{self.python.parent}:{self.weft / 'bin'}:/usr/local/bin:/usr/bin:/bin"

    @property
    def environ(self) -> dict[str, str]:
        """What the environment of agents and jobs holds."""
        return {"PATH": self.path, "PYTHONPATH": str(self.weft)}

    @property
    def worker_init(self) -> str:
        """The lines of a shell that set a job up."""
        return "".join(f"export {name}={value}\n" for name, value in self.environ.items())


def make_site(run: Run) -> Site:
    """Puts Weft, as it is in this checkout, beside the endpoint's environment that `make test-globus` has built."""
    python = Path(os.environ["WEFT_ENDPOINT_PYTHON"])
    site = install_weft(python, run.folder / "weft")
    # Whatever the umask of who runs the tests: users of the run read it.
    subprocess.run(["chmod", "-R", "a+rX", str(run.folder / "weft")], check=True)
    return Site(python, site)
