"""Successions of the coordinator's own signing keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add them; before, the founding keys always signed."""
    op.create_table(
        "successions",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("new_sha256", sa.String(64), nullable=False),
        sa.Column("by_admin", sa.Text, nullable=False),
        sa.Column("by_former", sa.Text, nullable=False),
    )
