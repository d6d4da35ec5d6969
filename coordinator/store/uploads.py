"""Uploads: announced, received part by part, accepted or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Select, func, insert, select, update

from coordinator.rounds import State
from coordinator.store.database import Database
from coordinator.store.log import Log
from coordinator.store.reading import stored
from coordinator.store.tables import rounds, uploads
from federation.messages import PayloadHeader, UploadRequest
from federation.signing import SignedDocument


@dataclass(frozen=True)
class UploadRow:
    """An upload as remembered.

    ``offset`` bytes of its body are durable, and ``touched_at`` is when it last moved: for an
    accepted one, when it was accepted. ``state`` is active, accepted, refused, abandoned
    (replaced by a newer upload, or its round is over) or excluded (accepted, but not aggregated).
    """

    upload_id: str
    round: int
    hospital: str
    request: str
    body_length: int
    touched_at: int
    offset: int = 0
    state: str = "active"
    header: str | None = None
    reason: str | None = None
    receipt: str | None = None

    def announced(self) -> UploadRequest:
        """What the hospital announced."""
        return stored(UploadRequest, self.request)

    def payload_header(self) -> PayloadHeader:
        """The sealed header of an accepted update."""
        assert self.header is not None
        return stored(PayloadHeader, self.header)

    def signed_receipt(self) -> SignedDocument | None:
        """The receipt, once the upload was committed."""
        return stored(SignedDocument, self.receipt) if self.receipt else None


Admit = Callable[[Sequence[UploadRow], int], str | None]
"""The id of the upload that a new one replaces, if any; or raises.

Given the hospital's uploads in the round, and how many bytes all unfinished ones still lack.
"""


class Uploads:
    """All uploads; bodies lie beside the database (``coordinator.blobs``)."""

    def __init__(self, database: Database, log: Log) -> None:
        self._database = database
        self._log = log

    def get(self, upload_id: str) -> UploadRow | None:
        """One upload."""
        with self._database.read() as connection:
            query = select(uploads).where(uploads.c.upload_id == upload_id)
            row = connection.execute(query).one_or_none()
        return UploadRow(**row._mapping) if row else None

    def of_round(self, number: int) -> list[UploadRow]:
        """A round's uploads, by hospital and id."""
        query = (
            select(uploads)
            .where(uploads.c.round == number)
            .order_by(uploads.c.hospital, uploads.c.upload_id)
        )
        with self._database.read() as connection:
            return [UploadRow(**row._mapping) for row in connection.execute(query)]

    def of_hospital(self, number: int, hospital: str) -> list[UploadRow]:
        """A hospital's uploads in a round: of hundreds, those of the others are much to read."""
        with self._database.read() as connection:
            found = connection.execute(_of_hospital(number, hospital))
            return [UploadRow(**row._mapping) for row in found]

    def needed_bodies(self) -> set[str]:
        """Ids of the uploads whose bodies may still be read."""
        query = (
            select(uploads.c.upload_id)
            .join(rounds, rounds.c.number == uploads.c.round)
            .where(
                uploads.c.state.in_(("active", "accepted")),
                rounds.c.state.in_((State.OPEN, State.CLOSED, State.AGGREGATED)),
            )
        )
        with self._database.read() as connection:
            return set(connection.scalars(query))

    def abandon(self) -> int:
        """Give up the unfinished uploads of rounds that are over; answers how many there were."""
        over = select(rounds.c.number).where(rounds.c.state.in_((State.PUBLISHED, State.ABORTED)))
        given_up = (
            update(uploads)
            .where(uploads.c.state == "active", uploads.c.round.in_(over))
            .values(state="abandoned")
        )
        with self._database.write() as connection:
            return connection.execute(given_up).rowcount

    def add(self, row: UploadRow, admit: Admit) -> tuple[UploadRow, str | None]:
        """Add an upload; answers the row there is under its id, and the id that it replaced.

        ``admit`` decides on the round's uploads while no other can be added, so that two
        announcements at once cannot both take the last place.
        """
        with self._database.write() as connection:
            query = select(uploads).where(uploads.c.upload_id == row.upload_id)
            if found := connection.execute(query).one_or_none():
                return UploadRow(**found._mapping), None
            own = connection.execute(_of_hospital(row.round, row.hospital))
            lacking = select(func.sum(uploads.c.body_length - uploads.c.offset)).where(
                uploads.c.round == row.round, uploads.c.state == "active"
            )
            replaces = admit(
                [UploadRow(**other._mapping) for other in own], connection.scalar(lacking) or 0
            )
            if replaces:
                connection.execute(
                    update(uploads)
                    .where(uploads.c.upload_id == replaces, uploads.c.state == "active")
                    .values(state="abandoned")
                )
            connection.execute(insert(uploads).values(**vars(row)))
        return row, replaces

    def advance(self, row: UploadRow, offset: int, *, now: int) -> bool:
        """Record that the body is durable up to ``offset``; False if it was not at row.offset."""
        move = (
            update(uploads)
            .where(
                uploads.c.upload_id == row.upload_id,
                uploads.c.state == "active",
                uploads.c.offset == row.offset,
            )
            .values(offset=offset, touched_at=now)
        )
        with self._database.write() as connection:
            return connection.execute(move).rowcount == 1

    def settle(
        self,
        row: UploadRow,
        receipt: SignedDocument,
        *,
        header: PayloadHeader | None,
        reason: str,
        now: int,
    ) -> UploadRow | None:
        """Accept (with the header) or refuse an active upload of an open round.

        Answers the settled row, an earlier one where the upload was settled before, and None
        where the round is not open any more or the hospital has an accepted update already.
        """
        state = "refused" if header is None else "accepted"
        settled = replace(
            row,
            state=state,
            header=header.to_json().decode() if header else None,
            reason=reason,
            receipt=receipt.to_json().decode(),
            touched_at=now,
        )
        with self._database.write() as connection:
            query = select(uploads).where(uploads.c.upload_id == row.upload_id)
            current = UploadRow(**connection.execute(query).one()._mapping)
            if current.state != "active":
                return current if current.receipt else None
            round_state = connection.scalar(
                select(rounds.c.state).where(rounds.c.number == row.round)
            )
            accepted = connection.scalar(
                select(uploads.c.upload_id).where(
                    uploads.c.round == row.round,
                    uploads.c.hospital == row.hospital,
                    uploads.c.state == "accepted",
                )
            )
            if round_state != State.OPEN or (header and accepted):
                return None
            connection.execute(
                update(uploads).where(uploads.c.upload_id == row.upload_id).values(**vars(settled))
            )
            self._log.append(
                connection,
                kind="receipt" if header else "refusal",
                hospital=row.hospital,
                round=row.round,
                document_sha256=receipt.body_sha256,
                detail=f"upload {row.upload_id}" + (f": {reason}" if reason else ""),
            )
        return settled


def _of_hospital(number: int, hospital: str) -> Select[Any]:
    return select(uploads).where(uploads.c.round == number, uploads.c.hospital == hospital)
