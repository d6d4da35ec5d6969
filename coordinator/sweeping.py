"""Clearing what crashes and finished rounds leave behind, at start and every quarter of an hour."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator.context import Coordinator
from coordinator.paths import Paths
from federation.errors import FedMedError
from federation.files import storage_errors

_INTERVAL_SECONDS = 900.0
_STALE_SECONDS = 3600
"""A temporary file untouched for so long has nobody who is still writing it."""
_INVITE_SECONDS = 7 * 86_400
"""For so long after its end an invite is answered with "expired", then with "not valid"."""
_COPY_SECONDS = 30 * 86_400
"""A database copy of a migration holds round secrets that the database has destroyed since."""

_TEMPORARY = re.compile(r"\..+\.([a-z0-9_]{8}|new)")
_COPY = re.compile(r"coordinator\.\d{4}\.sqlite")


@dataclass(frozen=True)
class Swept:
    """How many things of each kind were cleared."""

    bodies: int
    adapters: int
    files: int
    uploads: int
    expired: int


def sweep(coordinator: Coordinator, paths: Paths) -> Swept:
    """Clear everything that nobody reads again; safe beside a server and other commands.

    Raises StorageError.
    """
    store, blobs, now = coordinator.store, coordinator.blobs, coordinator.clock()
    uploads = store.uploads.abandon()
    swept = Swept(
        bodies=blobs.sweep(store.uploads.needed_bodies),
        # Files carry the machine's time, whatever the coordinator's clock says.
        adapters=blobs.sweep_adapters(store.rounds.needed_adapters, time.time() - _STALE_SECONDS),
        files=_sweep_files(paths),
        uploads=uploads,
        expired=store.members.forget(invites_before=now - _INVITE_SECONDS, nonces_before=now),
    )
    # Of what a round's end could not overwrite: it was killed, or somebody was reading.
    store.database.empty_log()
    if any(asdict(swept).values()):
        coordinator.emit("swept", **asdict(swept))
    return swept


def _sweep_files(paths: Paths) -> int:
    gone = 0
    for path in _left_behind(paths):
        with storage_errors(path):
            path.unlink(missing_ok=True)
        gone += 1
    return gone


def _left_behind(paths: Paths) -> Iterator[Path]:
    now = time.time()
    for folder in (paths.home, paths.keys, paths.tls, paths.admin_key.parent):
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                age = _STALE_SECONDS
            elif _COPY.fullmatch(path.name):
                age = _COPY_SECONDS
            else:
                continue
            with storage_errors(path):
                if path.is_file() and path.stat().st_mtime < now - age:
                    yield path


class Sweeper(threading.Thread):
    """Sweeps again and again, until stopped."""

    def __init__(self, coordinator: Coordinator, paths: Paths) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._coordinator = coordinator
        self._paths = paths
        self._stopped = threading.Event()

    def run(self) -> None:
        """Sweep at once and then every quarter of an hour; a problem is logged."""
        while True:
            try:
                sweep(self._coordinator, self._paths)
            except FedMedError as error:
                self._coordinator.emit("sweep_failed", reason=str(error), hint=error.hint)
            if self._stopped.wait(_INTERVAL_SECONDS):
                return

    def stop(self, seconds: float) -> None:
        """End after the sweep under way, and wait at most so long for it."""
        self._stopped.set()
        self.join(seconds)
