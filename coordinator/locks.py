"""Only one process serves a home, or changes it in ways that a server must not see half done."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.errors import StorageError
from federation.files import storage_errors

LOCK = "serve.lock"


def last_held(home: Path) -> int:
    """When a server last took the home, in seconds since 1970; 0 where none ever did."""
    try:
        return int((home / LOCK).stat().st_mtime)
    except FileNotFoundError:
        return 0


@contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Hold the home. Raises StorageError while a server or a migration holds it."""
    path = home / LOCK
    with storage_errors(path):
        # Not truncated: the file's time is the holder's, whoever else may try.
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"A coordinator already serves {home}.", hint="Stop that one first."
            ) from error
        os.utime(file.fileno())
        yield
