"""Findings about updates, decisions about them, and losses on the validation set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add them; no round that is under way has any."""
    op.add_column("rounds", sa.Column("examined_sha256", sa.String(64)))
    op.add_column("rounds", sa.Column("validation", sa.Text))
    op.add_column("rounds", sa.Column("looks", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "findings",
        sa.Column("upload_id", sa.String(32), sa.ForeignKey("uploads.upload_id"), primary_key=True),
        sa.Column("finding", sa.Text, nullable=False),
        sa.Column("found_at", sa.Integer, nullable=False),
        sa.Column("decision", sa.String(10)),
        sa.Column("decision_reason", sa.Text),
    )
    op.create_table(
        "validations",
        sa.Column("upload_id", sa.String(32), sa.ForeignKey("uploads.upload_id"), primary_key=True),
        sa.Column("set_sha256", sa.String(64), primary_key=True),
        sa.Column("loss", sa.Float, nullable=False),
    )
