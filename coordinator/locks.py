"""Only one process serves a home, or changes it in ways that a server must not see half done."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.errors import StorageError


@contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Hold the home. Raises StorageError while a server or a migration holds it."""
    with (home / "serve.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"A coordinator already serves {home}.", hint="Stop that one first."
            ) from error
        yield
