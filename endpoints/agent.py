"""Runs the check of an endpoint directory under the Python that has the agent's package."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from endpoints.mistakes import EndpointFilesError
from endpoints.reading import HERE

_AGENT = "globus-compute-endpoint"
_PACKAGE = "globus_compute_endpoint"
_PATIENCE_S = 120
# That Python has its own packages and perhaps another version of Weft: of ours it sees this folder alone.
_RUN = """
import importlib.util, runpy, sys
folder = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location(
    "endpoints", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["endpoints"] = importlib.util.module_from_spec(spec)
runpy.run_module("endpoints.checking", run_name="__main__", alter_sys=True)
"""


def find_python(told: Path | None) -> str:
    """The Python that has the agent's package: the one told, this one, or the one of the agent on PATH.

    Raises EndpointFilesError.
    """
    if told is not None:
        return str(told)
    if importlib.util.find_spec(_PACKAGE) is not None:
        return sys.executable
    agent = shutil.which(_AGENT)
    if agent is not None:
        for folder in (Path(agent).parent, Path(agent).resolve().parent):
            if (folder / "python").is_file():
                return str(folder / "python")
    raise EndpointFilesError(
        f"The check needs the agent's own package, {_AGENT}, which is neither beside Weft nor on PATH; name the Python "
        f"of its environment with --python, or make one: python3 -m venv agent && agent/bin/pip install {_AGENT}."
    )


def run_check(folders: Sequence[Path], python: str, flags: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The findings of each folder: `file`, `line`, `field`, `problem`, `remedy`, `warning`. One process checks them,
    because the agent's package takes longer to load than a folder to check. Raises EndpointFilesError.
    """
    for folder in folders:
        if not folder.is_dir():
            raise EndpointFilesError(f"{folder} is no folder.")
    command = [python, "-c", _RUN, str(HERE), *(str(folder.absolute()) for folder in folders), *flags]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    seconds = _PATIENCE_S + len(folders)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds, env=environment)
    except OSError as error:
        raise EndpointFilesError(f"Cannot run {python}: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise EndpointFilesError(f"The check under {python} did not end within {seconds} s.") from error
    try:
        found: list[list[dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        if _PACKAGE in last:
            last = f"it has no {_AGENT}; name the Python of the environment that has it with --python"
        raise EndpointFilesError(f"The check did not run under {python}: {last}.") from error
    return found
