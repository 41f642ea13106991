"""Build, once, the environment of the tests with the real Envoy, and print the path of its binary.

An environment of its own: the package owns `envoy/__init__.py`. See tests/testing/environments.py.
"""

import sys
from pathlib import Path

from tests.testing.environments import BuildError, built, make_environment, progress

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"
PYTHON = "python3.11"


def build(folder: Path) -> None:
    progress(f"Building Envoy's environment in {folder}: 100 MB, once.")
    make_environment(PYTHON, LOCK, folder, folder / "build.log")


def main() -> int:
    try:
        folder = built("envoy", [LOCK, Path(__file__)], build)
    except BuildError as error:
        progress(str(error))
        return 1
    # The program itself: the package's own script is a parent of it that hands signals on late.
    print(next(folder.glob("lib/python*/site-packages/envoy/_bin/envoy")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
