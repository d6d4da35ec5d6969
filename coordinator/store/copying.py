"""A copy of an SQLite database, consistent while others write to it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from coordinator.store import sqlite
from federation.errors import StorageError
from federation.files import storage_errors, sync_folder


def copy_sqlite(source: Path, target: Path) -> None:
    """Write what is committed in ``source`` to ``target``, durably, with mode 0600.

    SQLite's backup API reads all pages of one state. Raises StorageError.
    """
    temporary = target.with_name(f".{target.name}.new")
    try:
        with storage_errors(target):
            sqlite.remove(temporary)
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
            _backup(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
    except sqlite.library.Error as error:
        raise StorageError(
            f"{source} cannot be copied to {target}: {error}.",
            hint="Check the free space, the owner and the health of both disks.",
        ) from error
    finally:
        sqlite.remove(temporary)


def _backup(source: Path, target: Path) -> None:
    with closing(sqlite.connect(source)) as db, closing(sqlite.library.connect(target)) as copy:
        db.backup(copy)
        # The copy of a database with a write-ahead log would need that file beside it.
        copy.execute("PRAGMA journal_mode = DELETE")
