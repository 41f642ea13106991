"""Writes the Python stubs of every proto: `python protos/generate.py [FOLDER]`, by default into `protos/gen`.

The versions of grpcio-tools and mypy-protobuf are pinned in pyproject.toml, because they decide on which protobuf and
grpcio the stubs load: a worker runs inside vLLM's environment and takes the versions that it finds there.
"""

import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
THIRD_PARTY = PROTOS / "third_party"


def generate(out: Path) -> None:
    """Replaces the stubs in `out` by those of the protos as they are now."""
    # A stub whose proto is gone must not stay.
    shutil.rmtree(out / "weft", ignore_errors=True)
    areas = write_stubs(PROTOS, "weft", out)
    adopt(out)
    # `weft` has no __init__.py: it is a namespace, where each area carries its own mark of being typed (PEP 561).
    for area in (*areas, "third_party"):
        (out / "weft" / area / "py.typed").touch()


def adopt(out: Path) -> None:
    """Writes the stubs of third parties below `weft.third_party`: other packages own `envoy`, `udpa`, … at the top.

    protoc knows no option for that, so the imports are changed afterwards. The names of files and messages inside of
    the descriptors stay, and with them what is on the wire.
    """
    with tempfile.TemporaryDirectory() as scratch:
        packages = sorted(folder.name for folder in THIRD_PARTY.iterdir() if folder.is_dir())
        for package in packages:
            write_stubs(THIRD_PARTY, package, Path(scratch))
        theirs = re.compile(rf"^(from |import )(?=(?:{'|'.join(packages)})\b)", re.MULTILINE)
        for stub in Path(scratch).rglob("*.py*"):
            place = out / "weft" / "third_party" / stub.relative_to(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(theirs.sub(r"\1weft.third_party.", stub.read_text()))


def write_stubs(root: Path, package: str, out: Path) -> set[str]:
    """Writes the stubs of the protos in a package of a root; returns the package's own areas."""
    protos = sorted((root / package).glob("**/*.proto"))
    with_service = [proto for proto in protos if re.search(r"^service ", proto.read_text(), re.MULTILINE)]
    out.mkdir(parents=True, exist_ok=True)
    run(root, protos, f"--python_out={out}", f"--mypy_out=quiet,readable_stubs:{out}")
    if with_service:
        run(root, with_service, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet,only_async:{out}")
    return {proto.relative_to(root).parts[1] for proto in protos}


def run(root: Path, protos: list[Path], *outputs: str) -> None:
    """Runs protoc; ends the program with protoc's own status when it fails."""
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    well_known = Path(protoc.__file__).parent / "_proto"
    google_apis = Path(status_pb2.__file__).parents[2]  # googleapis-common-protos brings the protos beside its stubs
    roots = [f"-I{folder}" for folder in (root, well_known, google_apis)]
    names = [str(proto.relative_to(root)) for proto in protos]
    status = protoc.main(["protoc", *roots, *plugins, *outputs, *names])
    if status:
        sys.exit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTOS / "gen")
