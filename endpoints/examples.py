"""The examples: every configuration that this project knows a use for, rendered. `python -m endpoints.examples` writes
them anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from endpoints.functions import read_functions
from endpoints.job import LAUNCH_SCRIPT
from endpoints.reading import HERE, read_tree
from endpoints.render import Order, Rendered, render
from endpoints.writing import write

FOLDER = HERE / "examples"


def examples() -> Iterator[Rendered]:
    """Each, as rendering gives it today. Raises EndpointFilesError."""
    functions = read_functions(FOLDER / "functions.yaml")
    for name, told in read_tree(HERE / "examples.yaml").items():
        order = Order(
            site=told["site"],
            model=told.get("model"),
            settings=told.get("settings"),
            # A home differs from machine to machine, and the examples are to be the same on all.
            overrides=["site.folder=/opt/weft/endpoints"] * (told["site"] == "local") + told.get("set", []),
            name=name,
        )
        yield render(order, functions)


def main() -> None:
    """Writes them all. The script is a link to the one, where an endpoint's own folder has a copy."""
    for example in examples():
        folder = FOLDER / example.name
        if LAUNCH_SCRIPT in example.files:
            (folder / LAUNCH_SCRIPT).unlink(missing_ok=True)
        write(example, folder, force=True)
        if LAUNCH_SCRIPT in example.files:
            (folder / LAUNCH_SCRIPT).unlink()
            (folder / LAUNCH_SCRIPT).symlink_to(Path("..", "..", LAUNCH_SCRIPT))


if __name__ == "__main__":
    main()
