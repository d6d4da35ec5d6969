"""The first schema: members, rounds, uploads, reports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables."""
    _members()
    _rounds()
    _reports()


def _members() -> None:
    op.create_table(
        "rosters",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "invites",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("hospital", sa.String(63), nullable=False),
        sa.Column("expires", sa.Integer, nullable=False),
        sa.Column("used_by", sa.String(64)),
    )
    op.create_table(
        "candidates",
        sa.Column("hospital", sa.String(63), primary_key=True),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("enrolled_at", sa.Integer, nullable=False),
        sa.Column("revoked_at", sa.Integer),
    )
    op.create_table(
        "nonces",
        sa.Column("hospital", sa.String(63), primary_key=True),
        sa.Column("nonce", sa.String(22), primary_key=True),
        sa.Column("expires", sa.Integer, nullable=False, index=True),
    )


def _rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("descriptor", sa.Text, nullable=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("wrapped_seed", sa.LargeBinary),
        sa.Column("inputs_sha256", sa.String(64)),
        sa.Column("adapter_sha256", sa.String(64)),
        sa.Column("contributions", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("closed_at", sa.Integer),
        sa.Column("record", sa.Text),
    )
    op.create_table(
        "uploads",
        sa.Column("upload_id", sa.String(32), primary_key=True),
        sa.Column("round", sa.Integer, sa.ForeignKey("rounds.number"), nullable=False),
        sa.Column("hospital", sa.String(63), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("body_length", sa.Integer, nullable=False),
        sa.Column("offset", sa.Integer, nullable=False),
        sa.Column("touched_at", sa.Integer, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("header", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("receipt", sa.Text),
    )
    accepted = sa.text("state = 'accepted'")
    op.create_index(
        "one_accepted_update",
        "uploads",
        ["round", "hospital"],
        unique=True,
        sqlite_where=accepted,
        postgresql_where=accepted,
    )


def _reports() -> None:
    op.create_table(
        "progress",
        sa.Column("round", sa.Integer, sa.ForeignKey("rounds.number"), primary_key=True),
        sa.Column("hospital", sa.String(63), primary_key=True),
        sa.Column("phase", sa.String(20), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("of", sa.Integer, nullable=False),
        sa.Column("at", sa.Integer, nullable=False),
    )
    op.create_table(
        "evaluations",
        sa.Column("round", sa.Integer, sa.ForeignKey("rounds.number"), primary_key=True),
        sa.Column("hospital", sa.String(63), primary_key=True),
        sa.Column("loss", sa.Float, nullable=False),
        sa.Column("n_examples", sa.Integer, nullable=False),
        sa.Column("at", sa.Integer, nullable=False),
    )
