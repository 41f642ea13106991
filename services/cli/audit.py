"""`weft audit`: verify and show the audit logs of this machine. It reads files, and needs no service."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from services.cli.periods import parse_moment
from services.cli.settings import load
from services.runtime.audit_verify import Finding, Verdict, files_of, log_of, logs_in, read, read_head, verify

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_MOST: Final = 20
_NOTHING: Final = 2
"""The exit code where there is nothing to look at."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_Files = Annotated[list[Path] | None, typer.Argument(help="Files of logs; all logs of the home if none.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def audit() -> None:
    """Verify and show the audit logs on this machine."""


@app.command("verify")
def verify_(
    files: _Files = None,
    expect: Annotated[
        list[str] | None, typer.Option(help="A hash that 'weft audit head' gave, kept elsewhere; may be repeated.")
    ] = None,
    archived: Annotated[bool, typer.Option(help="Older files were moved elsewhere, and are not missed.")] = False,
    as_json: _Json = False,
) -> None:
    """Look whether the logs are as they were written. Exit code 0: they are; 1: they are not; 2: nothing to look at."""
    for one in expect or ():
        if _HASH.fullmatch(one) is None:
            raise typer.BadParameter(f"--expect takes the 64 hexadecimal digits of 'weft audit head'; not {one!r}")
    logs = _logs(files)
    if not logs:
        typer.echo("There is no audit log here.", err=True)
        raise typer.Exit(_NOTHING)
    verdicts = [verify(log, parts, archived=archived) for log, parts in logs.items()]
    verdicts[-1].findings += _unmet(logs, expect or [])
    if as_json:
        print(json.dumps([_to_dict(verdict) for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            _say(verdict)
    if any(verdict.findings for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def show(
    files: _Files = None,
    since: Annotated[str, typer.Option(help="Not before: 30d, 12h, 90m, or 2026-11-21.")] = "",
    principal: Annotated[str, typer.Option(help="Only of this one: users/ada.")] = "",
    as_json: _Json = False,
) -> None:
    """Show what the logs tell, in the order of time."""
    begin = parse_moment(since) if since else None
    said = [line.said for log, parts in _logs(files).items() for line in read(parts)]
    chosen = [one for one in said if _is_wanted(one, begin, principal)]
    for one in sorted(chosen, key=lambda one: str(one.get("time", ""))):
        print(json.dumps(one) if as_json else _sentence(one))
    if not (chosen or as_json):
        typer.echo("Nothing was found; 'weft audit verify' names the logs that are there.", err=True)


@app.command()
def head(files: _Files = None, as_json: _Json = False) -> None:
    """Print the hash of each log's last line. Keep it on another machine: --expect there proves what was before."""
    found = {log: read_head(log) for log in _logs(files)}
    if as_json:
        heads = [{"log": str(log), "seq": at.seq, "hash": at.hash} for log, at in found.items() if at]
        print(json.dumps(heads, indent=2))
        return
    for log, at in found.items():
        print(f"{at.hash}  {at.seq}  {log}" if at else f"{'unknown':<64}  -  {log}")


def _logs(files: list[Path] | None) -> dict[Path, list[Path]]:
    """The files of each log. Exits with 2 for a file that is not there."""
    if not files:
        return {log: files_of(log) for log in logs_in(load().home)}
    found: dict[Path, list[Path]] = {}
    for file in files:
        if not file.is_file():
            # 1 would say that a log is damaged.
            typer.echo(f"{file} is no file; 'weft audit verify' alone finds the logs of the home.", err=True)
            raise typer.Exit(_NOTHING)
        log = log_of(file)
        # Whoever names the log that is written now means all of it.
        found.setdefault(log, []).extend(files_of(log) if file == log else [file])
    return {log: sorted(set(parts)) for log, parts in found.items()}


def _unmet(logs: dict[Path, list[Path]], expect: list[str]) -> list[Finding]:
    """The hashes that are in none of the logs."""
    known = {line.at.hash for parts in logs.values() for line in read(parts)} if expect else set()
    message = "no line has the hash {}, which was kept elsewhere: the end is cut off, or lines were written anew"
    places = ", ".join(map(str, logs))
    return [Finding("truncated", places, message.format(one)) for one in expect if one not in known]


def _say(verdict: Verdict) -> None:
    for note in verdict.notes:
        print(f"  {note}")
    for finding in verdict.findings[:_MOST]:
        print(f"  {finding.place}: {finding.kind}: {finding.message}")
    if len(verdict.findings) > _MOST:
        print(f"  and {len(verdict.findings) - _MOST} more")
    word = "DAMAGED" if verdict.findings else "sound"
    print(f"{verdict.log}: {word}, {verdict.lines} lines, the last {verdict.last.seq} {verdict.last.hash}")


def _to_dict(verdict: Verdict) -> dict[str, Any]:
    return {
        "log": str(verdict.log),
        "lines": verdict.lines,
        "last": verdict.last._asdict(),
        "findings": [finding._asdict() for finding in verdict.findings],
        "notes": verdict.notes,
    }


def _is_wanted(said: dict[str, Any], begin: datetime.datetime | None, principal: str) -> bool:
    if principal and said.get("principal") != principal:
        return False
    if begin is None:
        return True
    try:
        return datetime.datetime.fromisoformat(str(said.get("time"))) >= begin
    except ValueError:
        return True


def _sentence(said: dict[str, Any]) -> str:
    """One line for people. What callers chose may hold control characters, which a terminal would obey."""
    shown: Iterable[tuple[str, Any]] = (
        (name, value) for name, value in said.items() if name not in ("seq", "prev", "time", "event")
    )
    told = " ".join(f"{name}={value}" for name, value in shown if value not in ("", 0))
    return _CONTROL.sub("?", f"{said.get('time', '-')} {said.get('event', '-'):<9} {told}")
