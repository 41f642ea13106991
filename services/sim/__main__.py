"""`python -m services.sim`: a simulated vLLM by itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields

from services.sim.config import SimConfig
from services.sim.main import run

_TYPES = {"str": str, "int": int, "float": float, "str | None": str, "int | None": int}


def _parser() -> argparse.ArgumentParser:
    """One flag for every setting of SimConfig that is a plain value."""
    parser = argparse.ArgumentParser(prog="python -m services.sim", description="A simulated vLLM.")
    parser.add_argument("--model", action="append", dest="models", help="a name to answer to; may be repeated")
    for field in fields(SimConfig):
        if field.type in _TYPES and field.default is not MISSING:
            flag = "--" + field.name.replace("_", "-")
            parser.add_argument(
                flag, type=_TYPES[str(field.type)], default=field.default, help=f"default {field.default}"
            )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Serves as the flags say, those of the process by default; exits with one sentence if it cannot."""
    arguments = vars(_parser().parse_args(argv))
    models = arguments.pop("models")
    if models:
        arguments["models"] = tuple(models)
    try:
        run(SimConfig(**arguments))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
