"""`weft usage`: who has used how much."""

from __future__ import annotations

import asyncio
import csv
import datetime
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text
from weft.usage.v1 import usage_pb2 as pb
from weft.usage.v1 import usage_pb2_grpc

from services.cli.connection import connect
from services.cli.periods import parse_moment
from services.cli.resources import to_dict
from services.cli.settings import load
from services.cli.tables import print_table
from services.core.principal import is_principal

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_BY: Final = {
    "user": pb.DIMENSION_PRINCIPAL,
    "group": pb.DIMENSION_GROUP,
    "model": pb.DIMENSION_MODEL,
    "day": pb.DIMENSION_DAY,
    "endpoint": pb.DIMENSION_ENDPOINT,
    "operation": pb.DIMENSION_OPERATION,
}
_SUMS: Final = ("calls", "failed_calls", "input_tokens", "output_tokens", "cached_tokens")
_TITLES: Final = ("calls", "failed", "tokens in", "tokens out", "cached")
_CALL: Final = (
    *("id", "request_id", "principal", "groups", "model", "route", "endpoint", "operation", "outcome", "status"),
    *("start_time", "first_byte_time", "end_time", "input_tokens", "output_tokens", "cached_tokens"),
    *("estimated", "streamed"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


@app.command()
def usage(
    by: Annotated[str, typer.Option(help="user, group, model, day, endpoint, operation; several with commas.")] = "",
    since: Annotated[str, typer.Option(help="Not before: 30d, 12h, or 2026-11-21.")] = "30d",
    until: Annotated[str, typer.Option(help="Before; until now if it is not given.")] = "",
    user: Annotated[str, typer.Option(help="Only of this principal: users/ada. Others than you: administrators.")] = "",
    group: Annotated[str, typer.Option(help="Only of those who were in this group; for administrators.")] = "",
    model: Annotated[str, typer.Option(help="Only of this model.")] = "",
    calls: Annotated[bool, typer.Option("--calls", help="Each call, instead of sums.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show calls and tokens: your own, and to an administrator everybody's."""
    if user and not is_principal(user):
        raise typer.BadParameter(f"--user takes the name of a principal, 'users/{user}' perhaps; not {user!r}")
    begin, end = parse_moment(since), parse_moment(until) if until else None
    if end is not None and end <= begin:
        raise typer.BadParameter(f"--until, {until}, is not after --since, {since}")
    chosen = pb.CallFilter(principal=user, group=group, model=model)
    chosen.start_time.FromDatetime(begin)
    if end is not None:
        chosen.end_time.FromDatetime(end)
    if calls:
        if by:
            raise typer.BadParameter("--calls lists each call, and --by sums them up: choose one")
        _show_calls(asyncio.run(_list(chosen)), as_csv, as_json)
        return
    names = _dimensions(by)
    _show_sums(names, *asyncio.run(_sum(names, chosen)), since, as_csv, as_json)


def _dimensions(by: str) -> list[str]:
    names = [name.strip() for name in by.split(",") if name.strip()] or ["user", "model"]
    for name in names:
        if name not in _BY or names.count(name) > 1:
            raise typer.BadParameter(f"--by takes {', '.join(_BY)}, each once, with commas; not {by!r}")
    return names


async def _sum(names: list[str], chosen: pb.CallFilter) -> tuple[list[pb.UsageRow], pb.UsageRow]:
    """The rows, and the total, which is not their sum where a call counts for several groups."""
    found: list[pb.UsageRow] = []
    async with connect(load(), "auth") as auth:
        stub = usage_pb2_grpc.UsageServiceStub(auth.channel)
        call: dict[str, Any] = {"metadata": auth.metadata, "timeout": auth.timeout}
        request = pb.SumUsageRequest(by=[_BY[name] for name in names], filter=chosen, page_size=1000)
        while True:
            answer = await stub.SumUsage(request, **call)
            found += answer.rows
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        total = await stub.SumUsage(pb.SumUsageRequest(filter=chosen), **call)
    return found, total.rows[0] if total.rows else pb.UsageRow()


async def _list(chosen: pb.CallFilter) -> list[pb.CallRecord]:
    found: list[pb.CallRecord] = []
    async with connect(load(), "auth") as auth:
        stub = usage_pb2_grpc.UsageServiceStub(auth.channel)
        request = pb.ListCallsRequest(filter=chosen, page_size=1000)
        while True:
            answer = await stub.ListCalls(request, metadata=auth.metadata, timeout=auth.timeout)
            found += answer.records
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found


def _show_sums(
    names: list[str], rows: list[pb.UsageRow], total: pb.UsageRow, since: str, as_csv: bool, as_json: bool
) -> None:
    if as_json:
        sums = [{**dict(zip(names, row.keys, strict=True)), **_numbers(row)} for row in rows]
        print(json.dumps({"rows": sums, "total": _numbers(total)}, indent=2))
    elif as_csv:
        print_csv([*names, *_SUMS], ([*row.keys, *_numbers(row).values()] for row in rows))
    elif not rows:
        print(f"No call was recorded since {since}.")
        print("Records come a second or two after a call ends; --since 400d looks back further.")
    else:
        _print_table(names, rows, total)


def _print_table(names: list[str], rows: list[pb.UsageRow], total: pb.UsageRow) -> None:
    table = Table(*names, show_footer=True)
    table.columns[0].footer = "total"
    for title, number in zip(_TITLES, _numbers(total).values(), strict=True):
        table.add_column(title, justify="right", footer=f"{number:,}")
    for row in rows:
        # As text: a caller's model may be named like rich's markup.
        table.add_row(*(Text(key or "-") for key in row.keys), *(f"{number:,}" for number in _numbers(row).values()))
    print_table(table)
    if "group" in names:
        print(
            "A call counts for each group of its caller; '-' is for callers without groups. The total counts it once."
        )


def _show_calls(records: list[pb.CallRecord], as_csv: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps([to_dict(record) for record in records], indent=2))
    elif as_csv:
        print_csv(_CALL, ([_value(record, name) for name in _CALL] for record in records))
    elif not records:
        print("No such call was recorded.")
    else:
        table = Table("began", "user", "model", "operation", "outcome", "seconds", "in", "out")
        for one in records:
            seconds = (one.end_time.ToMilliseconds() - one.start_time.ToMilliseconds()) / 1000
            words = (_value(one, "start_time"), one.principal, one.model, one.operation, one.outcome)
            numbers = (f"{seconds:.2f}", f"{one.input_tokens:,}", f"{one.output_tokens:,}")
            table.add_row(*(Text(str(word)) for word in words), *numbers)
        print_table(table)


def _numbers(row: pb.UsageRow) -> dict[str, int]:
    return {name: getattr(row, name) for name in _SUMS}


def _value(record: Any, name: str) -> Any:
    if name.endswith("_time"):
        stamp = getattr(record, name)
        return stamp.ToDatetime(datetime.UTC).isoformat(timespec="milliseconds") if record.HasField(name) else ""
    return " ".join(record.groups) if name == "groups" else getattr(record, name)


def print_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """CSV (RFC 4180) whose texts no spreadsheet takes for formulas, as OWASP's "CSV Injection" asks: a caller may name
    a model `=cmd()`.
    """
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in row])


def _harmless(text: str) -> str:
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
