"""The packages of the Node example, installed once from its lock, outside the checkout."""

import shutil
from pathlib import Path

from tests.testing.environments import built, run

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
FILES = (EXAMPLE / "package.json", EXAMPLE / "package-lock.json")


def node_modules() -> Path:
    """Where they are, for NODE_PATH. Raises `BuildError`."""
    return built("node", FILES, _install) / "node_modules"


def _install(folder: Path) -> None:
    for file in FILES:
        shutil.copy(file, folder)
    # No package's own script is run: the example needs what they unpack, and nothing that they would build.
    command = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder))
    run(command, folder / "npm.log", "npm could not install the packages of examples/node")
