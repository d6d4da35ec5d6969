"""The revisions of the database's schema, oldest first; alembic runs them, always forwards.

To change a table, in one commit:

1. Change ``store/tables.py``: it is what the program reads and writes.
2. Add ``versions/NNNN_topic.py`` with the next number after the highest there, ``revision`` equal
   to it, ``down_revision`` equal to the one before, and an ``upgrade`` that spells its columns out
   (never importing ``tables``, which will change again). New columns of an existing table are
   nullable or have a ``server_default``. All but adding tables, columns and indexes goes through
   ``op.batch_alter_table``. There is no ``downgrade``: the way back is the copy that ``coordinator
   migrate`` leaves.
3. Run ``tests/contract/test_migrations.py``: both ways must give one schema.

A revision that has been released is never edited. If two people took one number, the later commit
takes the next.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect

FOLDER = Path(__file__).parent
FIRST = "0001"
_DIGITS = 4


def revisions() -> tuple[str, ...]:
    """All revisions that this program knows, oldest first: the numbers of the files."""
    files = (FOLDER / "versions").glob("[0-9]*.py")
    return tuple(sorted(path.name[:_DIGITS] for path in files))


def head() -> str:
    """The revision that this program reads and writes."""
    return revisions()[-1]


def revision(connection: Connection) -> str | None:
    """The database's revision; None when it holds no coordinator's tables."""
    if inspect(connection).has_table("alembic_version"):
        query = "SELECT version_num FROM alembic_version"
        found = connection.exec_driver_sql(query).scalar_one_or_none()
        return None if found is None else str(found)
    # The first databases said so in SQLite's own field.
    first = connection.exec_driver_sql("PRAGMA user_version").scalar_one() == 1
    return FIRST if first else None


def upgrade(connection: Connection, to: str = "head") -> None:
    """Bring the schema to a revision, within the connection's transaction."""
    # Only where it is needed: importing alembic takes longer than most commands.
    from alembic import command
    from alembic.config import Config

    config = Config()
    # A percent sign in a path would be taken for interpolation.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    if connection.exec_driver_sql("PRAGMA user_version").scalar_one() == 1:
        command.stamp(config, FIRST)
        connection.exec_driver_sql("PRAGMA user_version = 0")
    command.upgrade(config, to)
