"""Tables show all that is in them."""

import pytest
from rich.table import Table

from services.cli.tables import print_table


def test_nothing_is_cut_short_where_nobody_looks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    names = [f"keys/{letter * 40}" for letter in "abcd"]
    table = Table(*("Name", "Principal", "[red]", "For"))
    table.add_row(*names)
    print_table(table)
    told = capsys.readouterr().out
    assert all(name in told for name in names)
    assert "[red]" in told, "names are no markup"
