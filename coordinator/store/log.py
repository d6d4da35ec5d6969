"""The audit log: entries and the complete subtrees of their Merkle tree (``federation.merkle``).

An act and its entry are one transaction: whoever changes a table calls ``append`` with the same
connection, after it is sure that the change is made. A repeated act changes nothing and logs
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from coordinator.clock import Clock
from coordinator.store.database import Database
from coordinator.store.reading import stored
from coordinator.store.tables import checkpoints, log, log_nodes
from federation import merkle
from federation.log import MAX_DETAIL, Kind, LogEntry
from federation.signing import SignedDocument


@dataclass(frozen=True)
class Head:
    """How many entries there are, and the root of their tree."""

    size: int
    root: bytes


class Log:
    """Every act of the coordinator, in order; nothing here changes or removes an entry."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def append(
        self,
        connection: Connection,
        *,
        kind: Kind,
        hospital: str | None = None,
        round: int | None = None,
        document_sha256: str | None = None,
        detail: str = "",
    ) -> None:
        """Note an act within the transaction that does it; ``connection`` is a writer's.

        ``document_sha256`` is the digest of the signed document that the act made.
        """
        index = _size(connection)
        entry = LogEntry(
            index=index,
            kind=kind,
            hospital=hospital,
            round=round,
            sha256=document_sha256,
            at=self._clock(),
            detail=detail[:MAX_DETAIL],
        ).to_json()
        leaf = merkle.leaf_hash(entry)
        nodes = merkle.completed(index, leaf, _reader(connection))
        connection.execute(insert(log).values(index=index, entry=entry.decode()))
        connection.execute(
            insert(log_nodes),
            [{"level": level, "position": position, "hash": h} for level, position, h in nodes],
        )

    def head(self) -> Head:
        """The tree as it is now."""
        with self._database.read() as connection:
            size = _size(connection)
            return Head(size, merkle.root(size, _reader(connection)))

    def root(self, size: int) -> bytes:
        """The root of the first ``size`` entries, of which there are so many."""
        with self._database.read() as connection:
            return merkle.root(size, _reader(connection))

    def entries(self, start: int, end: int) -> list[str]:
        """The entries from ``start`` to before ``end``, as the texts that were hashed."""
        query = (
            select(log.c.entry).where(log.c.index >= start, log.c.index < end).order_by(log.c.index)
        )
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def nodes(self, start: int, end: int) -> dict[tuple[int, int], bytes]:
        """The stored hashes that the entries from ``start`` to before ``end`` completed."""
        with self._database.read() as connection:
            return {
                (level, row.position): bytes(row.hash)
                for level in range(end.bit_length())
                for row in connection.execute(
                    select(log_nodes.c.position, log_nodes.c.hash).where(
                        log_nodes.c.level == level,
                        log_nodes.c.position >= start >> level,
                        log_nodes.c.position < end >> level,
                    )
                )
            }

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that the first ``size`` entries hold number ``index``."""
        with self._database.read() as connection:
            return merkle.inclusion_proof(index, size, _reader(connection))

    def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the first ``second`` entries begin with the ``first``."""
        with self._database.read() as connection:
            return merkle.consistency_proof(first, second, _reader(connection))

    def last_checkpoint(self) -> SignedDocument | None:
        """The checkpoint that was signed last."""
        with self._database.read() as connection:
            text = connection.scalar(select(checkpoints.c.document))
        return stored(SignedDocument, text) if text else None

    def keep_checkpoint(self, size: int, document: SignedDocument) -> None:
        """Remember a signed checkpoint in place of one of no more entries."""
        with self._database.write() as connection:
            kept = connection.scalar(select(func.max(checkpoints.c.size)))
            if kept is None or kept <= size:
                connection.execute(delete(checkpoints))
                connection.execute(
                    insert(checkpoints).values(size=size, document=document.to_json().decode())
                )


def _size(connection: Connection) -> int:
    last = connection.scalar(select(func.max(log.c.index)))
    return 0 if last is None else int(last) + 1


def _reader(connection: Connection) -> merkle.Read:
    def read(level: int, position: int) -> bytes:
        query = select(log_nodes.c.hash).where(
            log_nodes.c.level == level, log_nodes.c.position == position
        )
        return bytes(connection.scalars(query).one())

    return read
