"""Build, once, the environment of a Globus Compute endpoint as a site has it, and print the path of its Python.

It has the endpoint's agent and what Weft's worker needs, but not Weft, which each run of the tests puts beside it.
Progress goes to standard error; the last line of standard output is the path. See tests/testing/environments.py.
"""

import sys
from pathlib import Path

from tests.testing.environments import BuildError, built, make_environment, progress

LOCK = Path(__file__).resolve().with_name("requirements.lock")
PYTHON = "python3.11"


def build(folder: Path) -> None:
    progress(f"Building the endpoint's environment in {folder}: 250 MB and half a minute, once.")
    make_environment(PYTHON, LOCK, folder, folder / "build.log")


def main() -> int:
    try:
        folder = built("endpoint", [LOCK, Path(__file__)], build)
    except BuildError as error:
        progress(str(error))
        return 1
    print(folder / "bin" / "python")
    return 0


if __name__ == "__main__":
    sys.exit(main())
