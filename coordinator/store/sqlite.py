"""The one SQLite library of the coordinator; whatever opens its database takes it from here.

Two libraries in one process would drop each other's locks on a file (https://sqlite.org/
howtocorrupt.html, 2.2.1), and SQLite 3.7.0 to 3.51.2 have a race that corrupts a write-ahead log on
reset. Pythons link what their system has, so where that is older the ``pysqlite3`` package is used:
the standard library's own module, with a newer SQLite inside.
"""

from __future__ import annotations

import importlib
import sqlite3 as standard
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from federation.errors import StorageError

_WAL_IS_SAFE = (3, 51, 3)

BUSY_SECONDS = 15
"""How long a statement waits for another process."""

_LARGEST_LOG = 4 << 20
"""Bytes that the write-ahead log is cut to after a long reader let it grow: its usual size."""

_BESIDE = ("", "-journal", "-wal", "-shm")


def _newest() -> ModuleType:
    if standard.sqlite_version_info >= _WAL_IS_SAFE:
        return standard
    try:
        return importlib.import_module("pysqlite3")
    except ImportError:
        return standard


library = _newest()
"""The standard library's ``sqlite3``, or its twin."""


def journal_mode(version: tuple[int, ...] = library.sqlite_version_info) -> str:
    """WAL where the library has no WAL-reset race, else the rollback journal."""
    return "WAL" if version >= _WAL_IS_SAFE else "TRUNCATE"


def configure(connection: Any, *, foreign_keys: bool = True) -> None:  # noqa: ANN401  of either library
    """Make a new connection durable, with the journal that the database has.

    Raises StorageError for a write-ahead log that this library is too old for, and that somebody
    else has in use.
    """
    # The driver must not begin transactions by itself.
    connection.isolation_level = None
    (found,) = connection.execute("PRAGMA journal_mode").fetchone()
    if (found, journal_mode()) != ("wal", "WAL"):
        _journal(connection, "TRUNCATE")
    for pragma in (
        f"journal_size_limit = {_LARGEST_LOG}",
        # Of a write-ahead log, FULL would be the same.
        "synchronous = EXTRA",
        # macOS; it holds for checkpoints too.
        "fullfsync = ON",
        f"foreign_keys = {'ON' if foreign_keys else 'OFF'}",
        # What is deleted is overwritten: see Database.empty_log for a destroyed round secret.
        "secure_delete = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _journal(connection: Any, wanted: str) -> None:  # noqa: ANN401  of either library
    (found,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
    if found != wanted.lower():
        raise StorageError(
            f"The coordinator's database keeps its journal as {found}; SQLite "
            f"{library.sqlite_version} here needs {wanted}.",
            hint="Stop what uses the database, then try again. Where the pysqlite3 package is "
            "missing, install it.",
        )


def use_best_journal(path: Path) -> None:
    """Let the database have the journal that is best here, from now on.

    For one who holds the home's lock: a server of an older version, with an older library, must not
    find itself with a log. Raises the library's Error, StorageError.
    """
    with closing(connect(path)) as connection:
        _journal(connection, journal_mode())


def connect(path: Path, busy_seconds: float = BUSY_SECONDS) -> Any:  # noqa: ANN401  of either library
    """A connection to an existing database, durable. Raises the library's Error, StorageError."""
    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = library.connect(address, uri=True, timeout=busy_seconds)
    try:
        configure(connection)
    except (library.Error, StorageError):
        connection.close()
        raise
    return connection


def remove(path: Path) -> None:
    """Remove a database and what SQLite keeps beside it: a new one must not meet an old log."""
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
