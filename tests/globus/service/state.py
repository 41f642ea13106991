"""The state of the emulated service: in memory, and in a file, so that it may be stopped, killed and started again."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TypeVar

import msgspec

from tests.globus.service.records import Client, Endpoint, Function, Record, Task, Token

R = TypeVar("R", Client, Token, Endpoint, Function, Task)


class State:
    """All that the service knows. `keep` after every change of a record."""

    def __init__(self, file: Path) -> None:
        self._file = sqlite3.connect(file, isolation_level=None)
        # A killed process loses nothing by this, and nobody pulls the plug of a test.
        self._file.execute("PRAGMA synchronous=OFF")
        self._file.execute("PRAGMA journal_mode=WAL")
        self.clients = self._load(Client)
        self.tokens = self._load(Token)
        self.endpoints = self._load(Endpoint)
        self.functions = self._load(Function)
        self.tasks = self._load(Task)

    def keep(self, record: Record) -> None:
        """Adds a record, or writes down its change."""
        self._table(record)[record.id] = record
        self._file.execute(
            f"INSERT OR REPLACE INTO {_name(type(record))} VALUES (?, ?)", (record.id, msgspec.json.encode(record))
        )

    def forget(self, record: Record) -> None:
        """Removes a record."""
        self._table(record).pop(record.id, None)
        self._file.execute(f"DELETE FROM {_name(type(record))} WHERE id = ?", (record.id,))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _load(self, kind: type[R]) -> dict[str, R]:
        self._file.execute(f"CREATE TABLE IF NOT EXISTS {_name(kind)} (id TEXT PRIMARY KEY, record BLOB)")
        rows = self._file.execute(f"SELECT id, record FROM {_name(kind)} ORDER BY rowid")
        return {id: msgspec.json.decode(record, type=kind) for id, record in rows}

    def _table(self, record: Record) -> dict[str, Record]:
        table: dict[str, Record] = getattr(self, _name(type(record)))
        return table


def _name(kind: type[Record]) -> str:
    return f"{kind.__name__.lower()}s"
