"""One SQL database: transactions, durability, and its errors as StorageError."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import ConnectionPoolEntry

from coordinator.store import migrations, sqlite
from coordinator.store.copying import copy_sqlite
from coordinator.store.sqlite import BUSY_SECONDS
from federation.errors import StorageError
from federation.files import storage_errors

_CHECKPOINT_SECONDS = 1.0
"""How long emptying the log waits for a reader, while no other can write."""


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
        with self._alone(), self._transaction(write=True) as connection:
            yield connection

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=BUSY_SECONDS):
            raise StorageError(
                f"The coordinator's database was busy for {BUSY_SECONDS} s.",
                hint="Check the health of its disk: each write waits for it.",
            )
        try:
            yield
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
            raise _refused(error.orig) from error

    def check_writable(self) -> None:
        """Write durably what is there already. Raises StorageError."""
        with self.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = version_num")

    def empty_log(self) -> bool:
        """Move the write-ahead log into the database and cut it to nothing.

        What was overwritten or deleted is in neither then. False where a reader of an older state
        is in the way. Raises StorageError.
        """
        assert self._engine.url.database
        path = Path(self._engine.url.database)
        try:
            with self._alone(), closing(sqlite.connect(path, _CHECKPOINT_SECONDS)) as connection:
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite.library.Error as error:
            raise _refused(error) from error
        return not busy

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _refused(error: BaseException | None) -> StorageError:
    return StorageError(
        f"The coordinator's database refuses: {error}.",
        hint="Check the free space, the owner and the health of its disk.",
    )


def _engine(path: Path, *, foreign_keys: bool = True) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        module=sqlite.library,
        connect_args={"timeout": BUSY_SECONDS},
        pool_size=8,
        max_overflow=40,
        # A statement's values must not come into a traceback, and so into the log.
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        sqlite.configure(connection, foreign_keys=foreign_keys)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer locks at once: upgrading a read lock later could only fail.
        write = connection.get_execution_options().get("write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def create_sqlite(path: Path) -> Database:
    """A new database with all tables, of mode 0600 with all beside it. Raises StorageError."""
    with storage_errors(path):
        os.close(os.open(path, os.O_CREAT, 0o600))
    _upgrade(path)
    _use_best_journal(path)
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

    A copy is made first and kept. Raises StorageError; then the database is as it was. For one who
    holds the home's lock.
    """
    before = _known_revision(path)
    _use_best_journal(path)
    if before == migrations.head():
        return None
    copy = path.with_name(f"{path.stem}.{before}{path.suffix}")
    copy_sqlite(path, copy)
    _upgrade(path)
    return Migration(before, migrations.head(), copy)


def _use_best_journal(path: Path) -> None:
    try:
        sqlite.use_best_journal(path)
    except sqlite.library.Error as error:
        raise _refused(error) from error


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
