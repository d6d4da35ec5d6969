"""Rosters, invites, candidates and the nonces of signed requests."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from coordinator.clock import Clock, utc
from coordinator.store.database import Database
from coordinator.store.log import Log
from coordinator.store.reading import stored
from coordinator.store.rotations import Rotation, approve_waiting, forget_waiting
from coordinator.store.tables import candidates, invites, nonces, rosters
from federation.errors import StorageError
from federation.log import Kind
from federation.messages import PublicIdentity
from federation.signing import SignedDocument, fingerprint

_NOBODY = ""
"""No hospital's name: its one nonce expired last of all that were forgotten."""


@dataclass(frozen=True)
class InviteRow:
    """An invite as remembered: the token's hash, whose it is, and which identity used it."""

    token_sha256: str
    hospital: str
    expires: int
    used_by: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A hospital that proved to hold these keys; the roster says whether it is a member."""

    hospital: str
    identity: PublicIdentity
    enrolled_at: int
    revoked_at: int | None = None


class Members:
    """Who may take part and who has asked to."""

    def __init__(self, database: Database, log: Log, clock: Clock) -> None:
        self._database = database
        self._log = log
        self._clock = clock

    def roster(self) -> SignedDocument:
        """The newest roster."""
        with self._database.read() as connection:
            query = select(rosters.c.document).order_by(rosters.c.version.desc()).limit(1)
            return stored(SignedDocument, connection.scalars(query).one())

    def roster_digest(self) -> str:
        """The digest of the newest roster's signed text."""
        with self._database.read() as connection:
            query = select(rosters.c.sha256).order_by(rosters.c.version.desc()).limit(1)
            return str(connection.scalars(query).one())

    def roster_by_digest(self, sha256: str) -> SignedDocument | None:
        """The roster whose signed text has this digest."""
        with self._database.read() as connection:
            query = select(rosters.c.document).where(rosters.c.sha256 == sha256)
            text = connection.scalars(query).one_or_none()
        return stored(SignedDocument, text) if text else None

    def add_roster(
        self,
        version: int,
        document: SignedDocument,
        *,
        kind: Kind,
        hospital: str | None = None,
        rotation: Rotation | None = None,
    ) -> None:
        """Append the roster after the newest; ``kind`` is why, and ``hospital`` whom it concerns.

        ``rotation`` is what it brings into force. Raises StorageError if another came first.
        """
        with self._database.write() as connection:
            newest = connection.scalar(select(func.max(rosters.c.version)))
            if version != (-1 if newest is None else newest) + 1:
                raise StorageError(
                    f"The roster changed to version {newest} at the same time.",
                    hint="Run the command again.",
                )
            connection.execute(
                insert(rosters).values(
                    version=version,
                    sha256=document.body_sha256,
                    document=document.to_json().decode(),
                )
            )
            if kind == "revocation":
                connection.execute(
                    update(candidates)
                    .where(candidates.c.hospital == hospital)
                    .values(revoked_at=self._clock())
                )
            if rotation:
                approve_waiting(connection, rotation, self._clock())
            elif hospital:
                forget_waiting(connection, hospital)
            self._log.append(
                connection,
                kind=kind,
                hospital=hospital,
                document_sha256=document.body_sha256,
                detail=f"roster version {version}",
            )

    def add_invite(self, row: InviteRow) -> None:
        """Remember an invite."""
        with self._database.write() as connection:
            connection.execute(insert(invites).values(**vars(row)))
            self._log.append(
                connection, kind="invite", hospital=row.hospital, detail=f"until {utc(row.expires)}"
            )

    def invite(self, token_sha256: str) -> InviteRow | None:
        """The invite with this token."""
        with self._database.read() as connection:
            query = select(invites).where(invites.c.token_sha256 == token_sha256)
            row = connection.execute(query).one_or_none()
        return InviteRow(**row._mapping) if row else None

    def use_invite(self, token_sha256: str, used_by: str, candidate: Candidate) -> bool:
        """Spend an unused invite on a candidate, in one transaction; False if it was used."""
        spend = (
            update(invites)
            .where(invites.c.token_sha256 == token_sha256, invites.c.used_by.is_(None))
            .values(used_by=used_by)
        )
        with self._database.write() as connection:
            if connection.execute(spend).rowcount != 1:
                return False
            connection.execute(
                delete(candidates).where(candidates.c.hospital == candidate.hospital)
            )
            connection.execute(
                insert(candidates).values(
                    hospital=candidate.hospital,
                    identity=candidate.identity.to_json().decode(),
                    enrolled_at=candidate.enrolled_at,
                )
            )
            self._log.append(
                connection,
                kind="enrolment",
                hospital=candidate.hospital,
                detail=f"fingerprint {fingerprint(candidate.identity)}",
            )
        return True

    def candidates(self) -> dict[str, Candidate]:
        """Every hospital that ever enrolled, with its newest keys."""
        with self._database.read() as connection:
            rows = connection.execute(select(candidates).order_by(candidates.c.hospital)).all()
        return {
            row.hospital: Candidate(
                row.hospital,
                stored(PublicIdentity, row.identity),
                row.enrolled_at,
                row.revoked_at,
            )
            for row in rows
        }

    def remember_nonce(self, hospital: str, nonce: str, *, expires: int, now: int) -> bool:
        """Remember a nonce until ``expires``; False when it is known. Forgets expired ones.

        False too for one that may have been forgotten, which a clock set back would let in again.
        """
        with self._database.write() as connection:
            _forget_nonces(connection, now)
            forgotten = connection.scalar(
                select(nonces.c.expires).where(nonces.c.hospital == _NOBODY)
            )
            if forgotten is not None and expires <= forgotten:
                return False
            known = select(nonces.c.nonce).where(
                nonces.c.hospital == hospital, nonces.c.nonce == nonce
            )
            if connection.scalar(known) is not None:
                return False
            connection.execute(
                insert(nonces).values(hospital=hospital, nonce=nonce, expires=expires)
            )
        return True

    def forget(self, *, invites_before: int, nonces_before: int) -> int:
        """Drop invites and nonces that expired before these times; answers how many."""
        with self._database.write() as connection:
            old_invites = delete(invites).where(invites.c.expires < invites_before)
            n_invites = connection.execute(old_invites).rowcount
            return n_invites + _forget_nonces(connection, nonces_before)


def _forget_nonces(connection: Connection, before: int) -> int:
    """Drop nonces that expired before a time, keeping the latest of their expiries."""
    expired = (nonces.c.hospital != _NOBODY, nonces.c.expires < before)
    latest = connection.scalar(select(func.max(nonces.c.expires)).where(*expired))
    if latest is None:
        return 0
    gone = connection.execute(delete(nonces).where(*expired)).rowcount
    earlier = connection.scalar(select(nonces.c.expires).where(nonces.c.hospital == _NOBODY))
    connection.execute(delete(nonces).where(nonces.c.hospital == _NOBODY))
    connection.execute(
        insert(nonces).values(hospital=_NOBODY, nonce="", expires=max(latest, earlier or 0))
    )
    return gone
