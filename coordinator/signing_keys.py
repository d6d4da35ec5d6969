"""The coordinator's own signing keys in their files, which another process may replace.

Which keys sign is decided by one row of the database, the newest succession; the files only have
to hold them. A rotation writes the new keys beside the present ones (``coordinator.next.pem``),
commits the succession, and then puts them in the present ones' place by one rename. Between any two
of these steps the keys that the database names are in one of both files.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.store.successions import Successions
from federation.errors import IdentityError, StorageError
from federation.files import storage_errors, sync_folder
from federation.signing import Identity


class SigningKeys:
    """The keys in ``path`` or, since a rotation that was cut off, beside it."""

    def __init__(self, path: Path, successions: Successions, passphrase: str | None) -> None:
        self._path = path
        self._next = path.with_name("coordinator.next.pem")
        self._lock = path.with_name("coordinator.lock")
        self._passphrase = passphrase
        self._successions = successions
        self._identity = self._load(successions.newest_keys())

    def current(self) -> Identity:
        """The keys that sign now. Raises StorageError where no file holds them any more."""
        wanted = self._successions.newest_keys()
        while wanted is not None and self._identity.public().digest() != wanted:
            try:
                self._identity = self._load(wanted)
            except IdentityError as error:
                # They may have been replaced once more meanwhile.
                tried, wanted = wanted, self._successions.newest_keys()
                if wanted == tried:
                    # A hospital must not take it for a question of its own keys.
                    raise StorageError(str(error), hint=error.hint) from error
        return self._identity

    def _load(self, wanted: str | None) -> Identity:
        if wanted is None:
            return self._read(self._path)
        # The first once more at the end: they may have been moved there meanwhile.
        for path in (self._path, self._next, self._path):
            found = self._read_if_there(path)
            if found is not None and found.public().digest() == wanted:
                return found
        raise IdentityError(
            f"{self._path} does not hold the coordinator's present keys.",
            hint="Restore the file of the same backup as the database, or of a later one.",
        )

    def _read(self, path: Path) -> Identity:
        return Identity.load(path, self._passphrase, variable="COORDINATOR_PASSPHRASE")

    def _read_if_there(self, path: Path) -> Identity | None:
        try:
            return self._read(path)
        except IdentityError:
            if path.exists():
                raise
            return None

    @contextmanager
    def steady(self) -> Iterator[tuple[Identity, Path]]:
        """The present keys and their file; they are not replaced before the block ends."""
        with self._locked(fcntl.LOCK_SH):
            yield self.current(), self._next if self._is_unfinished() else self._path

    @contextmanager
    def replaced(self) -> Iterator[Identity | None]:
        """New keys, for the block to commit; they are in their file when it has ended.

        None where that was all that a rotation which was cut off had left to do. Killed at any
        point, it may be done again.
        """
        with self._locked(fcntl.LOCK_EX):
            if self._is_unfinished():
                yield None
            else:
                # Never what lies there: it may be older than a theft, or planted by the thief.
                new = Identity.generate()
                new.save(self._next, self._passphrase)
                yield new
            with storage_errors(self._path):
                os.replace(self._next, self._path)
                sync_folder(self._path.parent)

    def _is_unfinished(self) -> bool:
        """Whether the keys that sign are in the waiting file alone."""
        current = self.current().public()
        present = self._read_if_there(self._path)
        if present is not None and present.public() == current:
            return False
        waiting = self._read_if_there(self._next)
        return waiting is not None and waiting.public() == current

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with storage_errors(self._lock):
            handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, how)
            yield
        finally:
            os.close(handle)
