"""A coordinator's home from a backup: every digest verified, nothing bumped or guessed."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from coordinator.backup import BackupManifest, copy_file, read_manifest
from coordinator.context import passphrase
from coordinator.paths import Paths
from coordinator.store import sqlite
from coordinator.store.migrations import head, revisions
from coordinator.wrapping import WrappingKey
from federation.errors import ConfigError, IdentityError, StorageError
from federation.files import storage_errors, sync_folder


@dataclass(frozen=True)
class Restored:
    """What was restored; ``unfinished`` is the round whose updates the wrapping key opens."""

    manifest: BackupManifest
    unfinished: int | None


def restore(source: Path, paths: Paths, wrapping_key: Path | None, *, fingerprint: str) -> Restored:
    """Make the home from the backup in ``source``; it appears only when it is whole.

    ``fingerprint`` is of the coordinator's keys, which signed what the backup holds.

    Without ``wrapping_key`` a new one is made: the updates of an unfinished round stay closed for
    ever, and it can only be aborted. Raises InputError when there is no backup, ConfigError when
    the home is not empty, StorageError for a damaged file, IdentityError for another signer or
    wrapping key.
    """
    manifest = read_manifest(source, fingerprint)
    if paths.home.exists() and any(paths.home.iterdir()):
        raise ConfigError(
            f"{paths.home} is not empty; nothing was changed.",
            hint="Give another --home, or move that folder away.",
        )
    if manifest.revision not in revisions():
        raise StorageError(
            f"The backup has the schema of revision {manifest.revision}; this fedmed knows none "
            f"after {head()}.",
            hint="Restore it with the fedmed version that made it, or a later one.",
        )
    new = Paths(paths.home.with_name(f".{paths.home.name}.new"))
    with storage_errors(paths.home):
        shutil.rmtree(new.home, ignore_errors=True)
        new.home.mkdir(mode=0o700, parents=True)
        try:
            _copy(source, new, manifest)
            unfinished = _place_wrapping_key(new, wrapping_key, manifest.federation)
            for folder in (new.home, new.keys):
                sync_folder(folder)
            new.home.rename(paths.home)
            sync_folder(paths.home.parent)
        finally:
            shutil.rmtree(new.home, ignore_errors=True)
    return Restored(manifest, unfinished)


def _copy(source: Path, new: Paths, manifest: BackupManifest) -> None:
    for folder in (new.keys, new.tls, new.adapters, new.uploads):
        folder.mkdir(mode=0o700)
    for file in manifest.files:
        copied = copy_file(source / file.path, new.home / file.path, file.path)
        if copied != file:
            raise StorageError(
                f"{source / file.path} is damaged: it is not what {source.name} was made with.",
                hint="Restore another backup; nothing was changed.",
            )
    for folder in (new.tls, new.adapters, new.uploads):
        sync_folder(folder)


def _place_wrapping_key(new: Paths, given: Path | None, federation: str) -> int | None:
    with closing(sqlite.library.connect(new.database)) as database:
        if (found := database.execute("PRAGMA integrity_check").fetchone()) != ("ok",):
            raise StorageError(
                f"The backup's database is damaged: {found[0]}.", hint="Restore another backup."
            )
        query = "SELECT number, wrapped_seed FROM rounds WHERE wrapped_seed IS NOT NULL"
        seeds = database.execute(query).fetchall()
    number = seeds[0][0] if seeds else None
    if given is None:
        WrappingKey.create(new.wrapping_key, passphrase())
        return number
    key = WrappingKey.load(given, passphrase())
    for round_number, wrapped in seeds:
        try:
            key.unwrap(wrapped, federation, round_number)
        except StorageError as error:
            raise IdentityError(
                f"{given} is not the wrapping key of round {round_number}.",
                hint="Give the wrapping.pem that the round was opened with; nothing was changed.",
            ) from error
    copy_file(given, new.wrapping_key, new.wrapping_key.name)
    return number
