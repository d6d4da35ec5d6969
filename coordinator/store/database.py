"""One SQL database: transactions, durability, and its errors as StorageError."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from coordinator.store import migrations
from coordinator.store.copying import copy_sqlite
from federation.errors import StorageError

_WAL_IS_SAFE = (3, 51, 3)
"""From this SQLite on; 3.7.0 to 3.51.2 have a race that corrupts a write-ahead log on reset."""

_BUSY_SECONDS = 15
"""How long a write waits for those before it, of this process or another."""


class Database:
    """Transactions over an engine whose writers exclude each other from their first statement."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # SQLite lets its own waiters sleep and try again: whoever is unlucky waits for seconds.
        self._writing = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state. Raises StorageError."""
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable when the block has ended. Raises StorageError."""
        if not self._writing.acquire(timeout=_BUSY_SECONDS):
            raise StorageError(
                f"The coordinator's database was busy for {_BUSY_SECONDS} s.",
                hint="Check the health of its disk: each write waits for it.",
            )
        try:
            with self._transaction(write=True) as connection:
                yield connection
        finally:
            self._writing.release()

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        try:
            with (
                self._engine.connect().execution_options(write=write) as connection,
                connection.begin(),
            ):
                yield connection
        except DatabaseError as error:
            raise StorageError(
                f"The coordinator's database refuses: {error.orig}.",
                hint="Check the free space, the owner and the health of its disk.",
            ) from error

    def check_writable(self) -> None:
        """Write durably what is there already. Raises StorageError."""
        with self.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def journal_mode(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> str:
    """WAL where the linked SQLite has no WAL-reset race, else the rollback journal."""
    return "WAL" if version >= _WAL_IS_SAFE else "TRUNCATE"


def _engine(path: Path, *, foreign_keys: bool = True) -> Engine:
    engine = create_engine(
        # A statement's values must not come into a traceback, and so into the log.
        f"sqlite:///{path}",
        pool_size=8,
        max_overflow=40,
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        # The driver must not begin transactions by itself: see _begin.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout = {_BUSY_SECONDS * 1000}",
            f"journal_mode = {journal_mode()}",
            "synchronous = EXTRA",
            "fullfsync = ON",
            f"foreign_keys = {'ON' if foreign_keys else 'OFF'}",
            # A destroyed round secret is overwritten, not just unlinked.
            "secure_delete = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer locks at once: upgrading a read lock later could only fail.
        write = connection.get_execution_options().get("write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def create_sqlite(path: Path) -> Database:
    """A new database with all tables. Raises StorageError."""
    _upgrade(path)
    return open_sqlite(path)


def open_sqlite(path: Path) -> Database:
    """An existing database. Raises StorageError when missing or not of this program's revision."""
    found = _known_revision(path)
    if found != migrations.head():
        raise StorageError(
            f"{path} has the schema of revision {found}; this fedmed uses {migrations.head()}.",
            hint="Run `coordinator migrate`; it keeps a copy. `coordinator serve` does so too.",
        )
    return Database(_engine(path))


@dataclass(frozen=True)
class Migration:
    """What ``migrate_sqlite`` did; ``copy`` is the database as it was before."""

    before: str
    after: str
    copy: Path


def migrate_sqlite(path: Path) -> Migration | None:
    """Bring the database to this program's revision, in one transaction; None if it is there.

    A copy is made first and kept. Raises StorageError; then the database is as it was.
    """
    before = _known_revision(path)
    if before == migrations.head():
        return None
    copy = path.with_name(f"{path.stem}.{before}{path.suffix}")
    copy_sqlite(path, copy)
    _upgrade(path)
    return Migration(before, migrations.head(), copy)


def _known_revision(path: Path) -> str:
    if not path.is_file():
        raise StorageError(f"The database {path} is missing.", hint="Restore it from a backup.")
    database = Database(_engine(path))
    try:
        with database.read() as connection:
            found = migrations.revision(connection)
    finally:
        database.close()
    if found is None:
        raise StorageError(
            f"{path} does not hold a coordinator's tables.", hint="Restore it from a backup."
        )
    if found not in migrations.revisions():
        raise StorageError(
            f"{path} has the schema of revision {found}; this fedmed knows none after "
            f"{migrations.head()}.",
            hint="Run the fedmed version that wrote it, or a later one.",
        )
    return found


def _upgrade(path: Path) -> None:
    # SQLite changes a table by replacing it, which foreign keys would forbid.
    database = Database(_engine(path, foreign_keys=False))
    try:
        with database.write() as connection:
            migrations.upgrade(connection)
            if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise StorageError(
                    f"After the migration a row of {broken[0]} would refer to nothing.",
                    hint="Nothing was changed. This is a defect of fedmed: report it.",
                )
    finally:
        database.close()
