"""`weft certs`: certificates for mutual TLS, of an authority of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from services.cli.certificate_authority import (
    CA,
    CA_KEY,
    Authority,
    Wanted,
    for_part,
    read_certificates,
    spiffe_ids,
)
from services.cli.failures import CommandError
from services.cli.settings import load
from services.cli.tables import print_table
from services.edge.edge import PART, own_id
from services.rpc.peer import PARTS, path_of, trust_domain_of
from services.runtime.config import Config
from services.runtime.tls import TlsConfig

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

DIRECTORY = "certs"
"""Where certificates are kept, in the home, unless `tls.directory` says otherwise."""
DAYS = 90
_RENEW = timedelta(days=14)
"""`weft up --mtls` renews what has no longer than this."""

_Directory = Annotated[Path | None, typer.Option(help="Where they are kept, instead of 'tls.directory'.")]
_Days = Annotated[int, typer.Option(min=1, max=3650, help="How many days they are good.")]
_Host = Annotated[list[str] | None, typer.Option(help="A name or an address of its machine; may be repeated.")]
_CaKey = Annotated[Path | None, typer.Option(help=f"The authority's key, instead of {CA_KEY} in the directory.")]


@app.callback()
def certs() -> None:
    """Make certificates for mutual TLS (docs/tls.md)."""


@app.command()
def create(
    part: Annotated[list[str] | None, typer.Option(help=f"{', '.join(PARTS)}; all, if none.")] = None,
    host: _Host = None,
    days: _Days = DAYS,
    directory: _Directory = None,
    ca_key: _CaKey = None,
    new_ca: Annotated[bool, typer.Option("--new-ca", help="Begin a new authority; the old stays trusted.")] = False,
) -> None:
    """Make the certificates of the mesh's parts, or renew them. An authority is made when there is none."""
    parts = tuple(part or PARTS)
    if unknown := [name for name in parts if name not in PARTS]:
        raise typer.BadParameter(f"a part is one of {', '.join(PARTS)}; not {unknown[0]!r}")
    config = load()
    domain, folder = _tls(config).trust_domain, _folder(config, directory)
    _check_hosts(host or [], domain)
    key_file = ca_key or folder / CA_KEY
    authority = None if new_ca else Authority.open(folder, key_file)
    authority = authority or Authority.make(folder, key_file, domain)
    for name in parts:
        file = authority.issue(for_part(name, domain, timedelta(days=days), host or ()), name)
        typer.echo(f"{file}, good for {days} days")


@app.command()
def issue(
    spiffe_id: Annotated[str, typer.Argument(help="Whose: spiffe://weft/users/alice, for instance.")],
    name: Annotated[str | None, typer.Option(help="The files' name, NAME.pem and NAME-key.pem.")] = None,
    host: _Host = None,
    days: _Days = DAYS,
    directory: _Directory = None,
    ca_key: _CaKey = None,
) -> None:
    """Make a certificate for a caller; 'auth.certificates' says what it may do. With --host, it may serve too."""
    config = load()
    domain, folder = _tls(config).trust_domain, _folder(config, directory)
    if trust_domain_of(spiffe_id) != domain:
        raise CommandError(f"A SPIFFE id of this mesh looks like spiffe://{domain}/users/alice, not {spiffe_id!r}.")
    if path_of(spiffe_id).partition("/")[0] == "weft":
        raise CommandError("Ids below /weft are those of the mesh's parts: make them with 'weft certs create --part'.")
    _check_hosts(host or [], domain)
    name = name or path_of(spiffe_id).replace("/", "-")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", name) is None or name.removesuffix("-key") in (*PARTS, "ca"):
        raise CommandError(f"The files cannot be named {name!r}; give another --name.")
    authority = Authority.open(folder, ca_key or folder / CA_KEY)
    if authority is None:
        raise CommandError(f"There is no authority in {folder}; make one with 'weft certs create'.")
    file = authority.issue(Wanted(spiffe_id, timedelta(days=days), tuple(host or ())), name)
    typer.echo(f"{file}, good for {days} days")


@app.command()
def show(
    directory: _Directory = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show the certificates: whose they are, and when they expire."""
    folder = _folder(load(), directory)
    rows = [row for file in sorted(folder.glob("*.pem")) if not file.stem.endswith("-key") for row in _rows(file)]
    if not rows:
        raise CommandError(f"There are no certificates in {folder}; make them with 'weft certs create'.")
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("File", "SPIFFE id", "Expires", "Days left")
    for row in rows:
        table.add_row(row["file"], row["spiffe_id"], row["expires"], str(row["days_left"]))
    print_table(table)


def ensure(config: Config, folder: Path) -> None:
    """Makes what is missing for all parts, and renews what ends soon, if the authority's key is there."""
    domain = _tls(config).trust_domain
    _ensure(domain, folder, {part: for_part(part, domain, timedelta(days=DAYS)) for part in PARTS})


def ensure_envoy(config: Config, folder: Path, hosts: Sequence[str]) -> None:
    """The same for an Envoy in front, which serves as these hosts."""
    domain = _tls(config).trust_domain
    _ensure(domain, folder, {PART: Wanted(own_id(domain), timedelta(days=DAYS), hosts)})


def _ensure(domain: str, folder: Path, wanted: Mapping[str, Wanted]) -> None:
    now = datetime.now(UTC)

    def lacks(name: str) -> bool:
        file = folder / f"{name}.pem"
        return not file.exists() or read_certificates(file)[0].not_valid_after_utc < now + _RENEW

    if lacking := [name for name in wanted if lacks(name)]:
        authority = Authority.open(folder, folder / CA_KEY) or Authority.make(folder, folder / CA_KEY, domain)
        for name in lacking:
            authority.issue(wanted[name], name)


def _rows(file: Path) -> list[dict[str, Any]]:
    """One for a certificate; one for each authority, of which a file may hold several."""
    found = read_certificates(file)
    now = datetime.now(UTC)
    return [
        {
            "file": file.name,
            "spiffe_id": ", ".join(spiffe_ids(one)),
            "expires": f"{one.not_valid_after_utc:%Y-%m-%d %H:%M UTC}",
            "days_left": (one.not_valid_after_utc - now).days,
        }
        for one in (found if file.name == CA else found[:1])
    ]


def _check_hosts(hosts: list[str], domain: str) -> None:
    if reserved := [host for host in hosts if host.lower().rstrip(".").endswith(f".weft.{domain}")]:
        raise CommandError(f"{reserved[0]} is a name by which parts of the mesh know each other; give another --host.")


def _tls(config: Config) -> TlsConfig:
    return config.section("tls", TlsConfig)


def _folder(config: Config, directory: Path | None) -> Path:
    return directory or config.home / (_tls(config).directory or DIRECTORY)
