"""Where the `weft` command begins.

`weft worker` is handed on before anything else is imported: it runs where only the base dependencies are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130  # what shells expect after Ctrl-C


def main() -> None:
    """The console script."""
    # Whatever we fork becomes another program at once. gRPC's handlers around a fork are for those that go on, and
    # crash the child if calls are open.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Runs one command and gives its exit code. An error is one sentence on standard error."""
    if arguments[:1] == ["worker"]:
        from services.worker.command import main as worker

        return worker(arguments[1:])
    try:
        from services.cli.app import app
    except ModuleNotFoundError as error:
        if str(error.name).startswith(("services", "weft")):
            raise
        print("Only 'weft worker' is installed here; for the rest: pip install 'weft[server]'.", file=sys.stderr)
        return 2
    from services.cli.failures import explain

    try:
        app(args=list(arguments), prog_name="weft")
    except Exception as error:
        print(f"weft: {explain(error)}", file=sys.stderr)
        return 1
    return 0
