"""Large things on the local disk: global adapters by digest, sealed bodies by upload id.

A blob is durable before any row speaks of it: temporary file, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from federation.canonical import file_sha256
from federation.errors import StorageError
from federation.files import storage_errors, sync_folder
from federation.tensors import TensorFile, read_header, read_tensors, write_tensors

_UNFINISHED = ".new-"


class Blobs:
    """The adapters and the uploads of one coordinator; they leave ``reserve`` bytes free."""

    def __init__(self, adapters: Path, uploads: Path, reserve: int = 0) -> None:
        self._adapters = adapters
        self._uploads = uploads
        self.reserve = reserve
        self.appending = threading.Lock()
        """Held from reading an upload's offset until the new one is recorded."""

    def adapter(self, sha256: str) -> Path:
        """Where the adapter with this digest lies, if there is one."""
        return self._adapters / f"{sha256}.safetensors"

    def put_adapter(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Iterable[tuple[str, np.ndarray]],
    ) -> str:
        """Write float32 tensors, given in name order, durably; answers the file's digest."""
        with storage_errors(self._adapters):
            handle, name = tempfile.mkstemp(dir=self._adapters, prefix=_UNFINISHED)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    write_tensors(file, shapes, tensors)
                    file.flush()
                    os.fsync(file.fileno())
                sha256 = file_sha256(temporary)
                temporary.replace(self.adapter(sha256))
                sync_folder(self._adapters)
            finally:
                temporary.unlink(missing_ok=True)
        return sha256

    @contextmanager
    def plain_adapter(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Iterable[tuple[str, np.ndarray]],
    ) -> Iterator[Path]:
        """A file of these tensors for the length of a block; a killed one's is swept away."""
        with storage_errors(self._adapters):
            handle, name = tempfile.mkstemp(dir=self._adapters, prefix=_UNFINISHED)
        try:
            with storage_errors(self._adapters), os.fdopen(handle, "wb") as file:
                write_tensors(file, shapes, tensors)
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def read_adapter(self, sha256: str) -> Iterator[tuple[str, np.ndarray]]:
        """The adapter's tensors in name order. Raises StorageError when the file is missing."""
        try:
            file = self.adapter(sha256).open("rb")
        except OSError as error:
            raise StorageError(
                f"The adapter {sha256[:12]} cannot be read: {error.strerror}.",
                hint="Restore the adapters folder; `coordinator paths` shows where it is.",
            ) from error
        with file:
            yield from read_tensors(file, read_header(file))

    def adapter_by_name(self, sha256: str) -> TensorFile:
        """The adapter's tensors by name. Raises StorageError when the file is missing."""
        return TensorFile(self.adapter(sha256))

    def body(self, upload_id: str) -> Path:
        """Where the sealed body of an upload lies."""
        return self._uploads / upload_id

    def append(self, upload_id: str, offset: int, part: bytes) -> None:
        """Write a part at ``offset`` and make it durable. Raises StorageError on a full disk.

        Whatever lies beyond ``offset`` is left from an unacknowledged part and goes.
        """
        path = self.body(upload_id)
        with storage_errors(path):
            new = not path.exists()
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(handle, "r+b") as file:
                file.truncate(offset)
                file.seek(offset)
                try:
                    file.write(part)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    # Give back at once what a full disk took of the part.
                    os.ftruncate(file.fileno(), offset)
                    raise
            if new:
                sync_folder(self._uploads)

    def free_bytes(self) -> int:
        """What the uploads' disk has left, the reserve included. Raises StorageError."""
        with storage_errors(self._uploads):
            return shutil.disk_usage(self._uploads).free

    def require_space(self, n_bytes: int) -> None:
        """Raise StorageError unless the disk has room for ``n_bytes`` beside the reserve."""
        free = self.free_bytes()
        if free < n_bytes + self.reserve:
            raise StorageError(
                f"The coordinator's disk has {free >> 20} MiB left; the announced uploads need "
                f"{n_bytes >> 20} MiB and a reserve of {self.reserve >> 20} MiB.",
                hint="Ask the coordinator's operator to free some space, then upload again.",
            )

    def discard(self, upload_id: str) -> None:
        """Remove a body that nobody reads again."""
        with storage_errors(self.body(upload_id)):
            self.body(upload_id).unlink(missing_ok=True)

    def sweep(self, needed: Callable[[], set[str]]) -> int:
        """Remove bodies that are not needed; answers how many there were."""
        # Listed before it is asked what is needed: a body that comes meanwhile is not seen.
        with storage_errors(self._uploads):
            bodies = {path.name for path in self._uploads.iterdir()}
        orphans = bodies - needed()
        for upload_id in orphans:
            self.discard(upload_id)
        return len(orphans)

    def sweep_adapters(self, needed: Callable[[], set[str]], before: float) -> int:
        """Remove adapters that no round names, written or begun before a time; answers how many.

        ``before`` is in seconds since 1970: another process may just be writing one.
        """
        with storage_errors(self._adapters):
            old = {path for path in self._adapters.iterdir() if _modified(path) < before}
            orphans = old - {self.adapter(sha256) for sha256 in needed()}
            for path in orphans:
                path.unlink(missing_ok=True)
        return len(orphans)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        # Renamed since the folder was listed: it is new.
        return math.inf
