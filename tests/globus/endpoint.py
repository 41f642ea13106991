"""A real endpoint agent of the run, with a configuration of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from services.runtime.child import tail
from tests.globus.hosted import Hosted, Identity
from tests.globus.run import Run
from tests.globus.site import Site
from tests.vllm.processes import Deadline

START_SECONDS = 120


class EndpointAgent:
    """`globus-compute-endpoint start`, in the foreground. `folder` is the endpoint's own, as the package lays it out.

    It runs as `user`, who owns the folder; without one, as who runs the tests. Root's agent is a multi-user one.
    """

    def __init__(
        self,
        run: Run,
        hosted: Hosted,
        site: Site,
        identity: Identity,
        name: str,
        *,
        user: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._run, self._hosted, self._user = run, hosted, user
        self._home = run.folder / "home" / (user or name)
        self._configurations = self._home / ".globus_compute"
        self.folder = self._configurations / name
        self.folder.mkdir(parents=True)
        settings = {
            **site.environ,
            **hosted.environ,
            **identity.environ,
            "HOME": str(self._home),
            "GLOBUS_COMPUTE_USER_DIR": str(self._configurations),
            **(environ or {}),
        }
        command = [str(site.python.with_name("globus-compute-endpoint")), "start", name]
        self.part = run.part(name, command, settings, user=user)
        run.logs[name] = lambda: self.log

    @property
    def id(self) -> str:
        """Its UUID, once it has been registered."""
        id: str = json.loads((self.folder / "endpoint.json").read_text())["endpoint_id"]
        return id

    @property
    def scratch(self) -> Path:
        """A folder that its tasks may write to."""
        return self._home

    def own(self, folder: Path) -> None:
        """Gives a folder with all that is in it to those who run its tasks."""
        self._run.own(folder, self._user)

    def configure(
        self,
        config: Mapping[str, Any],
        template: str,
        schema: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Writes its files: `config.yaml`, the template of user endpoints, the template's schema, their environment."""
        (self.folder / "config.yaml").write_text(yaml.safe_dump({"heartbeat_period": 5, **config}))
        (self.folder / "user_config_template.yaml.j2").write_text(template)
        if schema is not None:
            (self.folder / "user_config_schema.json").write_text(json.dumps(schema))
        marks = {**self._run.marks, **(environment or {})}
        (self.folder / "user_environment.yaml").write_text(yaml.safe_dump(marks))
        self.hand_over()

    def hand_over(self) -> None:
        """Gives its files to its user; whoever writes them otherwise than by `configure` does this."""
        self._run.own(self._configurations, self._user)

    def start(self) -> None:
        """Starts it, and returns when the service has heard from it."""
        self.part.launch()
        for _ in Deadline(START_SECONDS, f"{self.name} is online"):
            assert self.part.running, f"{self.name} has ended\n{self.log}"
            if (self.folder / "endpoint.json").exists() and self._hosted.online(self.id):
                return

    async def kill(self) -> None:
        """SIGKILL to the agent alone; its user endpoints end when they find that it is gone."""
        await self.part.kill()
        # What the agent would have removed, and tolerates after three heartbeats.
        (self.folder / "daemon.pid").unlink(missing_ok=True)

    @property
    def log(self) -> str:
        """The ends of the logs of the agent and of its user endpoints."""
        files = [self.folder / "endpoint.log"]
        if (self.folder / "endpoint.json").exists():
            homes = self._run.folder / "home"
            files += homes.glob(f"*/.globus_compute/uep.{self.id}.*/endpoint.log")
        ends = [f"--- {file}\n{tail(file, lines=40)}" for file in files if file.exists()]
        return "\n".join([self.part.log, *ends])
