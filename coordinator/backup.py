"""A copy of a coordinator's home, consistent though the server goes on meanwhile.

The database comes first, then every blob that it names: a blob is durable before its row, and
never changes below the offset that the row states. The wrapping key stays out: whoever has a
backup alone cannot open an update. The admin key stays out too, since it belongs offline. The
coordinator's keys sign the list of all files with their digests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic.functional_validators import AfterValidator

from coordinator.context import Coordinator
from coordinator.paths import Paths
from coordinator.store import Store
from coordinator.store.copying import copy_sqlite
from coordinator.store.database import open_sqlite
from coordinator.store.migrations import head
from federation.canonical import Message, Sha256
from federation.errors import IdentityError, InputError, StorageError
from federation.files import storage_errors, sync_folder, write_atomically
from federation.messages import Name, PublicIdentity
from federation.signing import Identity, SignedDocument, fingerprint

MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_TRIES = 5


def _relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError("a path below the backup")
    return path


class BackupFile(Message):
    """One file of a backup, by its path in the home."""

    path: Annotated[str, AfterValidator(_relative)]
    sha256: Sha256
    length: int = Field(ge=0)


class BackupManifest(Message):
    """What a backup holds, signed by ``signer``, the coordinator's keys at that time.

    ``round`` is the newest round's number, 0 where there was none.
    """

    v: Literal[1] = 1
    federation: Name
    signer: PublicIdentity
    revision: str
    made_at: int
    round: int
    state: str
    files: tuple[BackupFile, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.length for file in self.files)


class _Gone(StorageError):
    """A body went away while it was copied: its round ended."""


def read_manifest(folder: Path, expected: str) -> BackupManifest:
    """What the backup in ``folder`` holds, by keys whose fingerprint is ``expected``.

    Raises InputError when there is no backup, IdentityError when other keys signed it or it was
    altered since.
    """
    try:
        document = SignedDocument.model_validate_json((folder / MANIFEST).read_bytes())
        manifest = BackupManifest.model_validate_json(document.body)
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{folder} holds no backup: {MANIFEST} cannot be read ({type(error).__name__}).",
            hint="Give the folder that `coordinator backup` made. One from before backups were "
            "signed is restored by the version that made it; then upgrade.",
        ) from error
    found = fingerprint(manifest.signer)
    if found != expected.strip().upper():
        raise IdentityError(
            f"The backup in {folder} is by a coordinator with the keys {found}, not {expected}.",
            hint="`coordinator keys show` told the fingerprint, and at every hospital `appliance "
            "status` does: ask one by phone. Keys from before a rotation are not believed there.",
        )
    try:
        document.verify(manifest.signer, "backup")
    except IdentityError as error:
        raise IdentityError(
            f"{folder / MANIFEST} was altered: its signature is not valid.",
            hint="Restore another backup; nothing was changed.",
        ) from error
    return manifest


def back_up(coordinator: Coordinator, paths: Paths, target: Path) -> BackupManifest:
    """Copy the home to the new folder ``target``, which appears only when it is whole.

    Raises InputError when it exists already, StorageError when a disk refuses.
    """
    if target.exists():
        raise InputError(
            f"{target} exists already; nothing was changed.",
            hint="Give each backup a folder of its own, such as one named for the day.",
        )
    temporary = target.with_name(f".{target.name}.new")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            manifest, signer = _try_copying(coordinator, paths, temporary)
            signed = SignedDocument.sign(manifest, signer, "backup")
            write_atomically(temporary / MANIFEST, signed.to_json(), mode=0o600)
            temporary.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _try_copying(
    coordinator: Coordinator, paths: Paths, target: Path
) -> tuple[BackupManifest, Identity]:
    for last in (*[False] * (_TRIES - 1), True):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)
        try:
            return _copy(coordinator, paths, target)
        except _Gone:
            if last:
                raise
    raise AssertionError("the last try returns or raises")


def _copy(coordinator: Coordinator, paths: Paths, target: Path) -> tuple[BackupManifest, Identity]:
    copy = target / paths.database.name
    # The database says which keys sign: it and their file have to be of one moment.
    with coordinator.keys.steady() as (identity, held):
        files = [copy_file(path, target / name, name) for name, path in _plain_files(paths, held)]
        copy_sqlite(paths.database, copy)
    store = Store.over(open_sqlite(copy))
    try:
        newest = store.rounds.newest()
        for path, length in _blobs(paths, store):
            name = path.relative_to(paths.home).as_posix()
            files.append(copy_file(path, target / name, name, length))
    finally:
        store.database.close()
    files.append(digest_file(copy, paths.database.name))
    for folder in {(target / file.path).parent for file in files}:
        sync_folder(folder)
    manifest = BackupManifest(
        federation=coordinator.federation,
        signer=identity.public(),
        revision=head(),
        made_at=coordinator.clock(),
        round=newest.number if newest else 0,
        state=newest.state.value if newest else "none",
        files=tuple(sorted(files, key=lambda file: file.path)),
    )
    return manifest, identity


def _plain_files(paths: Paths, identity: Path) -> Iterator[tuple[str, Path]]:
    """Configuration, own signing keys, certificates: the path in a home, and where it is now.

    By name: an invite or another key that somebody left in the home must not come into a backup.
    """
    yield paths.identity.relative_to(paths.home).as_posix(), identity
    tls = sorted(paths.tls.iterdir()) if paths.tls.is_dir() else []
    certificates = (p for p in tls if p.suffix in (".pem", ".crt", ".key"))
    for path in (paths.config, paths.admin_public, *certificates):
        if path.is_file() and not path.name.startswith("."):
            yield path.relative_to(paths.home).as_posix(), path


def _blobs(paths: Paths, store: Store) -> Iterator[tuple[Path, int | None]]:
    for sha256 in sorted(store.rounds.needed_adapters()):
        yield paths.adapters / f"{sha256}.safetensors", None
    for upload_id in sorted(store.uploads.needed_bodies()):
        row = store.uploads.get(upload_id)
        if row is not None and row.offset:
            yield paths.uploads / upload_id, row.offset


def copy_file(source: Path, target: Path, name: str, length: int | None = None) -> BackupFile:
    """Copy a file durably, or its first ``length`` bytes; answers what was written."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), length
    try:
        reader = source.open("rb")
    except FileNotFoundError as error:
        raise _Gone(f"{source} is missing.", hint="Restore it, or its whole home.") from error
    with reader, target.open("xb") as writer:
        os.fchmod(writer.fileno(), 0o600)
        while chunk := reader.read(_CHUNK if left is None else min(left, _CHUNK)):
            digest.update(chunk)
            writer.write(chunk)
            left = None if left is None else left - len(chunk)
        if left:
            raise _Gone(f"{source} is {left} bytes too short.", hint="Is its disk in order?")
        writer.flush()
        os.fsync(writer.fileno())
        return BackupFile(path=name, sha256=digest.hexdigest(), length=writer.tell())


def digest_file(path: Path, name: str) -> BackupFile:
    """A file as it would stand in a manifest."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return BackupFile(path=name, sha256=digest.hexdigest(), length=file.tell())
