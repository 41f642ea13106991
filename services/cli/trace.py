"""`weft trace`: the latest traces of this machine's services, and one of them as a tree."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.failures import CommandError
from services.cli.settings import load
from services.cli.tables import print_table
from services.cli.trace_render import ASCII, Marks, duration, plain, render
from services.cli.trace_tree import Trace, find, traces
from services.core import gen_ai, weft_attributes
from services.runtime.config import Config
from services.runtime.telemetry.files import folder, read

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_PIPE_WIDTH: Final = 120
_SHORT: Final = 12
"""Characters of an id in the list, more where others begin so, too: callers may have chosen them."""


@app.command()
def trace(
    id: Annotated[
        str, typer.Argument(help="The trace to show: its id, or the beginning of it, or the id of a request.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many to list.")] = 20,
    errors: Annotated[
        bool, typer.Option("--errors", help="List those alone in which anything failed or was refused.")
    ] = False,
    details: Annotated[bool, typer.Option("--details", help="Show all events and attributes of the trace.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the latest traces, or show one as a tree, with the times of its spans."""
    config = load()
    known = traces(read(config.home))
    if id:
        _show(_one(known, id), details, as_json)
        return
    chosen = [trace for trace in known if trace.failed or not errors][:limit]
    if as_json:
        print(json.dumps([trace.to_builtins() for trace in chosen], indent=2))
    elif chosen:
        _list(chosen, known)
    else:
        print(_none(config, bool(known)))


def _one(known: Sequence[Trace], wanted: str) -> Trace:
    found = find(known, wanted)
    if not found:
        raise CommandError(f"There is no trace {wanted!r}: 'weft trace' lists those that are kept.")
    if len(found) > 1:
        ids = ", ".join(trace.id for trace in found[:3]) + (", …" if len(found) > 3 else "")
        raise CommandError(f"{len(found)} traces are meant by {wanted!r}; give more of one's id: {ids}.")
    return found[0]


def _show(trace: Trace, details: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps([msgspec.to_builtins(span) for span in trace.spans], indent=2))
        return
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _PIPE_WIDTH, markup=False, emoji=False, highlight=False)
    marks = Marks() if (sys.stdout.encoding or "").lower().startswith("utf") else ASCII
    for line in render(trace, console.width, details=details, marks=marks):
        console.print(line, soft_wrap=True)


def _short(one: Trace, known: Sequence[Trace]) -> str:
    """The beginning of its id that no other has."""
    beginnings = (one.id[:some] for some in range(_SHORT, len(one.id)))
    return next((some for some in beginnings if sum(other.id.startswith(some) for other in known) == 1), one.id)


def _list(chosen: Sequence[Trace], known: Sequence[Trace]) -> None:
    table = Table("trace", "began", "took", "what", "caller", "model", "status")
    for one in chosen:
        began = datetime.datetime.fromtimestamp(one.start_ns / 1e9).astimezone()
        caller, model = (str(one.told(name) or "-") for name in (weft_attributes.PRINCIPAL, gen_ai.REQUEST_MODEL))
        cells = (f"{began:%m-%d %H:%M:%S}", duration(one.end_ns - one.start_ns), one.root.name, caller, model)
        # As text: a caller's model may be named like rich's markup.
        status = Text(plain(one.status), "red" if one.failed else "")
        table.add_row(_short(one, known), *(Text(plain(cell)) for cell in cells), status)
    print_table(table)
    print(f"weft trace {_short(chosen[0], known)} shows the first of them.")


def _none(config: Config, some: bool) -> str:
    if some:
        return "Nothing failed in the traces that are kept; 'weft trace' lists them."
    return (
        f"There is no trace in {folder(config.home)} yet: make a call, and look again a second later. "
        "'weft up' keeps traces; services that are started otherwise do with 'tracing.local: true' in weft.yaml."
    )
