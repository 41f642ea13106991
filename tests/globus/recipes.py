"""The sites and models of the tests, as an administrator would describe their own, and endpoints rendered from them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.globus.endpoint import EndpointAgent
from tests.globus.run import Run
from tests.globus.site import Site
from tests.vllm.rows.row import CHAT_MODEL
from tests.vllm.server import ENVIRONMENT, OPTIONS

WEFT = (sys.executable, "-m", "services.cli")
SIM_MODEL = "sim-model"

SIMULATED_VLLM = """\
#!{python}
# What `vllm serve` is to the launch script, for tests that need workers soon: the simulator. Words that vLLM does not
# know are the simulator's.
import os
import sys

_, _, model, *words = sys.argv
names = words.index("--served-model-name")
words[names : names + 2] = ["--model", words[names + 1]]
os.execv(sys.executable, [sys.executable, "-m", "services.sim", *words])
"""


@dataclass(frozen=True, slots=True)
class Recipes:
    """Writes descriptions, and renders endpoints from them by `weft endpoints render`. `functions` is the file that
    `weft functions register` wrote.
    """

    run: Run
    site: Site
    vllm_python: Path
    functions: Path

    @property
    def folder(self) -> Path:
        """Where the descriptions lie."""
        return self.run.folder / "recipes"

    def write_simulator(self) -> Path:
        """The program `vllm` that is the simulator; returns its folder."""
        folder = self.folder / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "vllm"
        program.write_text(SIMULATED_VLLM.format(python=self.site.python))
        program.chmod(0o755)
        return folder

    def describe_site(self, scheduler: str, *, real: bool, walltime: str = "00:20:00") -> dict[str, Any]:
        """A site with this scheduler. `real` is about vLLM."""
        exports = [f"export {name}={value}" for name, value in self.site.environ.items()]
        site: dict[str, Any] = {
            "about": "A machine for tests",
            "scheduler": scheduler,
            "environment": {"setup": exports},
            "vllm_environment": {"venv": str(self.vllm_python.parents[1])}
            if real
            else {"setup": [f"export PATH={self.write_simulator()}:$PATH"]},
            "endpoint_environment": {**self.run.marks, **self.site.environ},
            "engine": {
                "job_status_kwargs": {"strategy_period": 1, "max_idletime": 60},
                # A job that is gone is taken for gone soon: parsl gives it tasks until then.
                "heartbeat_period": 3,
                "heartbeat_threshold": 10,
            },
        }
        if scheduler == "slurm":
            site["queue"] = {"default": "gpu"}
            site["walltime"] = {"default": walltime, "maximum": "01:00:00"}
            site["scheduler_options"] = ["--gpus-per-node=1", "--mem=200"]
            site["provider"] = {"exclusive": False, "cores_per_node": 1}
        return site

    def describe_model(self, *, real: bool, flags: tuple[str, ...] = ()) -> dict[str, Any]:
        """The tiny chat model of the real vLLM, or the simulator's."""
        if not real:
            return {"about": "A simulated model", "name": SIM_MODEL, "start_timeout": 60, "flags": list(flags)}
        return {
            "about": "A tiny model with random weights",
            "name": CHAT_MODEL,
            "path": str(self.vllm_python.parents[1] / "models" / "chat"),
            "max_model_len": 8192,
            "variables": ENVIRONMENT,
            "start_timeout": 240,
            "flags": [*OPTIONS, *flags],
        }

    def render(
        self,
        agent: EndpointAgent,
        site: Mapping[str, Any],
        model: Mapping[str, Any] | None,
        *,
        check: bool = True,
        **settings: Any,
    ) -> None:
        """Writes the agent's folder, and has it checked with the package's own loaders."""
        self.folder.mkdir(exist_ok=True)
        files = {
            "site": site,
            "model": model,
            "settings": {"heartbeat_period": 5, **settings},
        }
        command = [*WEFT, "endpoints", "render", "--functions", str(self.functions), "--output", str(agent.folder)]
        for name, content in files.items():
            if content is not None:
                file = self.folder / f"{agent.name}-{name}.yaml"
                file.write_text(yaml.safe_dump(dict(content)))
                command += [f"--{name}", str(file)]
        run_weft(*command)
        python = ["--python", str(self.site.python)]
        if check:
            run_weft(*WEFT, "endpoints", "check", str(agent.folder), *python, "--functions", str(self.functions))
        # The hosted service listens on 443; RabbitMQ on the one port that the emulated service tells.
        for name in ("config.yaml", "user_config_template.yaml.j2"):
            file = agent.folder / name
            file.write_text(re.sub(r"^amqp_port: .*\n", "", file.read_text(), flags=re.MULTILINE))
        agent.hand_over()


def run_weft(*command: str, environ: Mapping[str, str] | None = None) -> str:
    """What a command prints; fails with its errors if it does."""
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout
