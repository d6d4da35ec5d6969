"""New keys that members ask for, and from which keys the present ones came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, update

from coordinator.store.database import Database
from coordinator.store.log import Log
from coordinator.store.reading import stored
from coordinator.store.tables import candidates, rotations
from federation.errors import StorageError
from federation.messages import PublicIdentity
from federation.signing import fingerprint


@dataclass(frozen=True)
class Rotation:
    """``identity`` is to take the place of the hospital's keys with the digest ``old_sha256``."""

    hospital: str
    old_sha256: str
    identity: PublicIdentity
    requested_at: int


class Rotations:
    """All rotations; of each hospital at most one waits for the administrator."""

    def __init__(self, database: Database, log: Log) -> None:
        self._database = database
        self._log = log

    def ask(self, rotation: Rotation) -> bool:
        """Note a rotation in place of any that waits; False where this one does already."""
        with self._database.write() as connection:
            waiting = connection.execute(_waiting(rotation.hospital)).one_or_none()
            new = rotation.identity.digest()
            asked = (rotation.old_sha256, new)
            if waiting is not None and (waiting.old_sha256, waiting.new_sha256) == asked:
                return False
            forget_waiting(connection, rotation.hospital)
            connection.execute(
                insert(rotations).values(
                    hospital=rotation.hospital,
                    new_sha256=new,
                    old_sha256=rotation.old_sha256,
                    identity=rotation.identity.to_json().decode(),
                    requested_at=rotation.requested_at,
                )
            )
            self._log.append(
                connection,
                kind="rotation",
                hospital=rotation.hospital,
                detail=f"asks for the keys {fingerprint(rotation.identity)}",
            )
        return True

    def waiting(self, hospital: str) -> Rotation | None:
        """The hospital's rotation that waits."""
        with self._database.read() as connection:
            found = connection.execute(_waiting(hospital)).one_or_none()
        if found is None:
            return None
        identity = stored(PublicIdentity, found.identity)
        return Rotation(hospital, found.old_sha256, identity, found.requested_at)

    def earlier_keys(self, sha256: str) -> set[str]:
        """Digests of all keys from which those with this digest came by approved rotations."""
        query = select(rotations.c.new_sha256, rotations.c.old_sha256).where(
            rotations.c.approved_at.is_not(None)
        )
        with self._database.read() as connection:
            before = {row.new_sha256: row.old_sha256 for row in connection.execute(query)}
        earlier: set[str] = set()
        while sha256 in before and before[sha256] not in earlier:
            sha256 = before[sha256]
            earlier.add(sha256)
        return earlier


def approve_waiting(connection: Connection, rotation: Rotation, now: int) -> None:
    """Within the transaction that signs the keys in. Raises StorageError if others wait now."""
    approved = connection.execute(
        update(rotations)
        .where(
            rotations.c.hospital == rotation.hospital,
            rotations.c.new_sha256 == rotation.identity.digest(),
            rotations.c.approved_at.is_(None),
        )
        .values(approved_at=now)
    )
    if approved.rowcount != 1:
        raise StorageError(
            f"{rotation.hospital} asked for other keys at the same time.",
            hint="Run the command again.",
        )
    connection.execute(
        update(candidates)
        .where(candidates.c.hospital == rotation.hospital)
        .values(identity=rotation.identity.to_json().decode())
    )


def forget_waiting(connection: Connection, hospital: str) -> None:
    """Within a transaction that makes it void."""
    connection.execute(
        delete(rotations).where(rotations.c.hospital == hospital, rotations.c.approved_at.is_(None))
    )


def _waiting(hospital: str) -> Select[Any]:
    return select(rotations).where(
        rotations.c.hospital == hospital, rotations.c.approved_at.is_(None)
    )
