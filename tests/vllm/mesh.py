"""A mesh as a newcomer starts it: `weft up` in a subprocess, with a home of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.vllm.exchange import send
from tests.vllm.processes import Deadline, Process, children, free_port

WEFT = str(Path(sys.executable).with_name("weft"))
START_SECONDS = 120  # Its parts start one after the other.


class Mesh:
    """All services of Weft, and a worker for each of `vllm_urls`. `settings` is the text of its weft.yaml."""

    def __init__(
        self, home: Path, vllm_urls: Sequence[str], options: Sequence[str] = (), *, settings: str = ""
    ) -> None:
        home.mkdir(parents=True)
        (home / "weft.yaml").write_text(settings)
        self.home = home
        self.log = home / "up.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        attached = [argument for url in vllm_urls for argument in ("--vllm-url", url)]
        command = [WEFT, "up", "--port", str(self.port), *attached, *options]
        self.process = Process(command, self.log, self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """What makes any `weft` command speak to this mesh."""
        return {"WEFT_HOME": str(self.home)}

    @property
    def key(self) -> str:
        return (self.home / "dev.key").read_text().strip()

    @property
    def router(self) -> str:
        """`host:port` of the router, as it has announced it."""
        address: str = json.loads((self.home / "run" / "router.json").read_text())["address"]
        return address

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def ready(self, *models: str) -> None:
        """Wait until the mesh answers and serves `models`."""
        awaited = f"the mesh serves {', '.join(models) or 'nothing yet'}"
        for _ in Deadline(START_SECONDS, f"{awaited} ({self.log})"):
            if not self.process.alive:
                raise AssertionError(f"`weft up` ended\n{self.process.tail()}")
            listed = self.models()
            if listed is not None and set(models) <= listed:
                return

    def models(self) -> set[str] | None:
        """The models that the mesh lists; None while it does not answer."""
        try:
            answer = send(self.url, "GET", "/v1/models", self.authorization, None)
        except OSError:
            return None
        return {model["id"] for model in json.loads(answer.body)["data"]} if answer.status == 200 else None

    def weft(self, *arguments: str) -> bytes:
        """What a `weft` command prints that speaks to this mesh."""
        environment = {**os.environ, **self.environment}
        return subprocess.run([WEFT, *arguments], env=environment, check=True, capture_output=True).stdout

    def worker(self, vllm_url: str) -> int:
        """The process id of the worker that is attached to `vllm_url`."""
        found = [
            pid for pid, command in children(self.process.pid).items() if "worker" in command and vllm_url in command
        ]
        assert found, f"no worker of {vllm_url} among {children(self.process.pid)}"
        return min(found)

    def stop(self) -> None:
        self.process.stop()
