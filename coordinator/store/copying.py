"""A copy of an SQLite database, consistent while others write to it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from federation.errors import StorageError
from federation.files import storage_errors, sync_folder


def copy_sqlite(source: Path, target: Path) -> None:
    """Write what is committed in ``source`` to ``target``, durably, with mode 0600.

    SQLite's backup API reads all pages under one lock, for which a writer waits. Raises
    StorageError.
    """
    temporary = target.with_name(f".{target.name}.new")
    try:
        with storage_errors(target):
            temporary.unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
            _backup(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
    except sqlite3.Error as error:
        raise StorageError(
            f"{source} cannot be copied to {target}: {error}.",
            hint="Check the free space, the owner and the health of both disks.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _backup(source: Path, target: Path) -> None:
    read_only = f"{source.absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(read_only, uri=True)) as db,
        closing(sqlite3.connect(target)) as copy,
    ):
        db.backup(copy)
        # The copy of a database with a write-ahead log would need that file beside it.
        copy.execute("PRAGMA journal_mode = DELETE")
