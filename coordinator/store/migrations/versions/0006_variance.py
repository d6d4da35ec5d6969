"""The variance of a loss on the validation set over its folds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add it; losses from before have none and are of another digest, so they are not used."""
    op.add_column("validations", sa.Column("variance", sa.Float))
