"""Writes the Python stubs of every proto: `python protos/generate.py [FOLDER]`, by default into `protos/gen`.

The versions of grpcio-tools and mypy-protobuf are pinned in pyproject.toml, because they decide on which protobuf and
grpcio the stubs load: a worker runs inside vLLM's environment and takes the versions that it finds there.
"""

import re
import shutil
import sys
import sysconfig
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent


def generate(out: Path) -> None:
    """Replaces the stubs in `out` by those of the protos as they are now."""
    protos = sorted(PROTOS.glob("weft/**/*.proto"))
    with_service = [proto for proto in protos if re.search(r"^service ", proto.read_text(), re.MULTILINE)]

    # A stub whose proto is gone must not stay.
    shutil.rmtree(out / "weft", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    run(protos, f"--python_out={out}", f"--mypy_out=quiet,readable_stubs:{out}")
    run(with_service, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet,only_async:{out}")

    # `weft` has no __init__.py: it is a namespace, where each area carries its own mark of being typed (PEP 561).
    for area in {proto.relative_to(PROTOS).parts[1] for proto in protos}:
        (out / "weft" / area / "py.typed").touch()


def run(protos: list[Path], *outputs: str) -> None:
    """Runs protoc; ends the program with protoc's own status when it fails."""
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    well_known = Path(protoc.__file__).parent / "_proto"
    names = [str(proto.relative_to(PROTOS)) for proto in protos]
    status = protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *plugins, *outputs, *names])
    if status:
        sys.exit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS / "gen")
