"""Extensions of a round, plans of several rounds, hospitals' new keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add them; no round that is under way has any."""
    op.add_column("rounds", sa.Column("extension", sa.Text))
    op.create_table(
        "plans",
        sa.Column(
            "first",
            sa.Integer,
            sa.ForeignKey("rounds.number"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("rounds", sa.Integer, nullable=False),
        sa.Column("max_aborts", sa.Integer, nullable=False),
        sa.Column("fresh", sa.Boolean, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("ended", sa.Text),
    )
    op.create_table(
        "rotations",
        sa.Column("hospital", sa.String(63), primary_key=True),
        sa.Column("new_sha256", sa.String(64), primary_key=True),
        sa.Column("old_sha256", sa.String(64), nullable=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("requested_at", sa.Integer, nullable=False),
        sa.Column("approved_at", sa.Integer),
    )
