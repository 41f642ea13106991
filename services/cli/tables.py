"""Tables in the terminal, and in files."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console
from rich.table import Table

_ENDLESS: Final = 100_000


def print_table(table: Table) -> None:
    """All of it: a name that is cut short can be pasted nowhere. A terminal breaks what does not fit, but for the
    first column, which is what a row goes by; a pipe or a file has room.
    """
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    Console(width=None if sys.stdout.isatty() else _ENDLESS, markup=False, emoji=False).print(table)
