"""Writes `docs/access.md` from the table that the tests hold the mesh to: `python docs/access.py`."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tests.testing.everybody.table import ADMITTED, CALLERS, HTTP, RPCS, STRANGERS, Row

_INTRODUCTION = """\
# Who may do what

Every RPC that the services of a mesh serve, and every HTTP route of the facade, under every kind of caller. This page
is written by `python docs/access.py` from `tests/testing/everybody/table.py`, and `tests/integration/test_everybody.py`
tries each cell against a mesh that runs: an RPC, a route or a kind of caller that is not here fails it.

`OK` is an answer; any other word is a reason, which [errors.md](errors.md) explains. Where a reason is no refusal, as
`RESOURCE_NOT_FOUND`, the caller was let in, and asked for something that is not there.

## Callers

| Caller | What they show | Unless it is open to all, they hear |
|---|---|---|
"""

_HEAD = "| {what} | Who | What they get | Everybody else who is admitted |\n|---|---|---|---|\n"


def page() -> str:
    """The whole page."""
    callers = "".join(f"| {name} | {what} | {STRANGERS.get(name, '')} |\n" for name, what in CALLERS.items())
    return f"{_INTRODUCTION}{callers}\n## gRPC\n\n{_table('RPC', RPCS)}\n## HTTP\n\n{_table('Route', HTTP)}"


def _table(what: str, rows: Mapping[str, Row]) -> str:
    return _HEAD.format(what=what) + "".join(_row(name, row) for name, row in rows.items())


def _row(name: str, row: Row) -> str:
    outcomes = {caller: row.outcome(caller) for caller in CALLERS}
    if len(set(outcomes.values())) == 1:
        return f"| `{name}` | everybody | {next(iter(outcomes.values()))} | |\n"
    served: dict[str, list[str]] = defaultdict(list)
    refused: set[str] = set()
    for caller, outcome in outcomes.items():
        if caller in row.allowed or row.but.get(caller) == "OK":
            served[outcome].append(caller)
        elif caller in ADMITTED:
            refused.add(outcome)
    who = "; ".join(", ".join(callers) for callers in served.values())
    return f"| `{name}` | {who} | {', '.join(served)} | {', '.join(sorted(refused))} |\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
