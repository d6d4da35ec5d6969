"""The signed documents that the database keeps, by the digest of the text that is there now."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from coordinator.store.database import Database
from coordinator.store.reading import stored
from coordinator.store.tables import rosters, rounds, successions, uploads
from federation.errors import StorageError
from federation.signing import SignedDocument


@dataclass(frozen=True)
class Document:
    """What a document is, in words, and the digest of its signed text; None where it is none."""

    name: str
    sha256: str | None


def stored_documents(database: Database) -> list[Document]:
    """Every roster, succession, descriptor, receipt and record, and of extensions the newest."""
    kept = (
        ("roster, version", rosters.c.version, rosters.c.document),
        ("succession, number", successions.c.number, successions.c.by_admin),
        ("descriptor of round", rounds.c.number, rounds.c.descriptor),
        ("extension of round", rounds.c.number, rounds.c.extension),
        ("record of round", rounds.c.number, rounds.c.record),
        ("receipt of upload", uploads.c.upload_id, uploads.c.receipt),
    )
    with database.read() as connection:
        return [
            Document(f"{what} {number}", _digest(document))
            for what, key, column in kept
            for number, document in connection.execute(
                select(key, column).where(column.is_not(None)).order_by(key)
            )
        ]


def _digest(text: str) -> str | None:
    try:
        return stored(SignedDocument, text).body_sha256
    except StorageError:
        return None
