"""The audit log: entries, the subtrees of their Merkle tree, the last signed checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

from federation import merkle
from federation.canonical import canonical_json, sha256

revision = "0002"
down_revision = "0001"

_EARLIER = "done before the log began"


def upgrade() -> None:
    """Create the log; it begins with the acts whose signed documents there are."""
    op.create_table(
        "log",
        sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("entry", sa.Text, nullable=False),
    )
    op.create_table(
        "log_nodes",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("size", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    connection, tree, now = op.get_bind(), merkle.Tree(), int(time.time())
    for act in [*_rosters(connection), *_rounds(connection)]:
        common = {"v": 1, "index": tree.size, "at": now, "detail": _EARLIER}
        entry = canonical_json({"hospital": None, "round": None, **act, **common})
        connection.execute(
            sa.text('INSERT INTO log ("index", entry) VALUES (:index, :entry)'),
            {"index": tree.size, "entry": entry.decode()},
        )
        for level, position, value in tree.append(merkle.leaf_hash(entry)):
            connection.execute(
                sa.text("INSERT INTO log_nodes VALUES (:level, :position, :hash)"),
                {"level": level, "position": position, "hash": value},
            )


def _digest(document: str) -> str:
    return sha256(json.loads(document)["body"].encode())


def _rosters(connection: sa.Connection) -> Iterator[dict[str, object]]:
    before: set[str] = set()
    for document in connection.scalars(sa.text("SELECT document FROM rosters ORDER BY version")):
        body = json.loads(json.loads(document)["body"])
        members = {member["hospital"] for member in body["members"]}
        kind = "revocation" if before - members else "approval" if body["version"] else "founding"
        hospital = next(iter(sorted(before ^ members)), None)
        yield {"kind": kind, "hospital": hospital, "sha256": _digest(document)}
        before = members


def _rounds(connection: sa.Connection) -> Iterator[dict[str, object]]:
    rounds = sa.text("SELECT number, state, descriptor, record FROM rounds ORDER BY number")
    uploads = sa.text(
        "SELECT hospital, state, receipt FROM uploads WHERE round = :round AND receipt IS NOT NULL "
        "ORDER BY touched_at, upload_id"
    )
    for number, state, descriptor, record in connection.execute(rounds).all():
        yield {"kind": "opening", "round": number, "sha256": _digest(descriptor)}
        for hospital, outcome, receipt in connection.execute(uploads, {"round": number}):
            kind = "refusal" if outcome == "refused" else "receipt"
            digest = _digest(receipt)
            yield {"kind": kind, "round": number, "hospital": hospital, "sha256": digest}
        if record is not None:
            kind = "abort" if state == "aborted" else "publication"
            yield {"kind": kind, "round": number, "sha256": _digest(record)}
