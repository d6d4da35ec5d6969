"""Durable writes: a file is either the old one or the whole new one, also after a power cut."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from federation.errors import StorageError

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT}


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that a rename inside it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """fsync a file that something else wrote, before other files rely on it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Make a folder and those above it that are missing, durably; ``mode`` is the folder's own.

    A file's own fsync does not keep the new folder that it lies in.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode, exist_ok=True)
    sync_folder(folder.parent)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate the operating system's write errors at ``path`` into StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in _OUT_OF_SPACE:
            raise StorageError(
                f"No space left on the disk of {path}.",
                hint="Free some space and run the same command again; nothing was half-written.",
            ) from error
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}.",
            hint="Check the owner, the permissions and the health of that disk.",
        ) from error


@contextmanager
def atomic_path(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """A temporary file that replaces ``path`` durably when the block ends without an error.

    Order: write, fsync, rename, fsync of the folder. On any error the temporary file is removed
    and ``path`` is untouched. Raises StorageError when the disk refuses.
    """
    with storage_errors(path):
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_writer(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Open the temporary file of ``atomic_path`` for writing."""
    with atomic_path(path, mode=mode) as temporary, temporary.open("wb") as file:
        yield file


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data`` durably; see ``atomic_writer``."""
    with atomic_writer(path, mode=mode) as file:
        file.write(data)
