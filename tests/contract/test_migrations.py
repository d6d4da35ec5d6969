"""The revisions give the schema that the program uses, and keep the data of every older one."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from coordinator.store import Store, migrations
from coordinator.store.database import create_sqlite, migrate_sqlite, open_sqlite
from coordinator.store.documents import stored_documents
from coordinator.store.log import Head
from coordinator.store.sqlite import library as sqlite3
from coordinator.store.tables import metadata
from federation import merkle
from federation.errors import StorageError
from federation.log import LogEntry

OLD = Path(__file__).with_name("database_0001.sql")


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(migrations.FOLDER))
    return ScriptDirectory.from_config(config)


def schema(path: Path) -> dict[str, object]:
    """Each table's columns and foreign keys and each index's definition, in no order."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {
            name: _table(db, name) if kind == "table" else re.sub(r'[\s"()]+', "", sql)
            for kind, name, sql in rows.fetchall()
            if name != "alembic_version"
        }


def _table(db: sqlite3.Connection, name: str) -> tuple[set[object], set[object]]:
    columns = {row[1:] for row in db.execute(f"PRAGMA table_info({name})")}
    foreign_keys = {row[2:] for row in db.execute(f"PRAGMA foreign_key_list({name})")}
    return columns, foreign_keys


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database as the first program left it, with a round under way."""
    path = tmp_path / "coordinator.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLD.read_text(encoding="utf-8"))
    return path


def test_revisions_are_one_line_numbered_as_their_files() -> None:
    walked = list(scripts().walk_revisions())
    assert [script.revision for script in reversed(walked)] == list(migrations.revisions())
    befores = [None, *migrations.revisions()[:-1]]
    assert [script.down_revision for script in reversed(walked)] == befores
    for script in walked:
        assert Path(script.path).name.startswith(f"{script.revision}_")


def test_revisions_give_the_tables_of_the_program(tmp_path: Path) -> None:
    create_sqlite(tmp_path / "migrated.sqlite").close()
    with create_engine(f"sqlite:///{tmp_path / 'migrated.sqlite'}").connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    declared = create_engine(f"sqlite:///{tmp_path / 'declared.sqlite'}")
    metadata.create_all(declared)
    # What alembic does not compare: foreign keys' targets, partial indexes' conditions.
    assert schema(tmp_path / "migrated.sqlite") == schema(tmp_path / "declared.sqlite")


def test_the_first_database_survives_with_its_data(old: Path) -> None:
    done = migrate_sqlite(old)
    if migrations.head() != migrations.FIRST:
        assert done is not None
        assert (done.before, done.after) == (migrations.FIRST, migrations.head())
        with closing(sqlite3.connect(done.copy)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (1,)
    store = Store.over(open_sqlite(old))
    row = store.rounds.newest()
    assert row is not None
    assert (row.number, row.state, row.descriptor.federation) == (1, "open", "demo-net")
    assert row.wrapped_seed is not None
    (upload,) = store.uploads.of_round(1)
    assert (upload.hospital, upload.state) == ("h01", "accepted")
    assert upload.signed_receipt() is not None
    assert upload.payload_header().n_examples == 10
    assert list(store.members.candidates()) == ["h01", "h02"]
    assert list(store.reports.heartbeats(1)) == ["h01"]
    entries = [LogEntry.model_validate_json(text) for text in store.log.entries(0, 99)]
    assert [(e.kind, e.hospital) for e in entries] == [
        ("founding", None),
        ("approval", "h01"),
        ("approval", "h02"),
        ("opening", None),
        ("receipt", "h01"),
    ]
    documents = {document.sha256 for document in stored_documents(store.database)}
    assert documents == {entry.sha256 for entry in entries}
    tree = merkle.Tree()
    for text in store.log.entries(0, 99):
        tree.append(merkle.leaf_hash(text.encode()))
    assert store.log.head() == Head(5, tree.root())
    store.database.close()
    assert migrate_sqlite(old) is None


def test_a_migrated_database_has_the_schema_of_a_new_one(old: Path) -> None:
    migrate_sqlite(old)
    create_sqlite(old.with_name("new.sqlite")).close()
    assert schema(old) == schema(old.with_name("new.sqlite"))


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.sqlite"
    create_sqlite(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()
    before = path.read_bytes()
    for use in (open_sqlite, migrate_sqlite):
        with pytest.raises(StorageError, match="9999") as caught:
            use(path)
        assert "version that wrote it" in caught.value.hint
    assert path.read_bytes() == before


def test_an_older_database_is_refused_naming_the_command(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions_with_one_more(
        old.parent, monkeypatch, "op.add_column('rounds', sa.Column('x', sa.Text))"
    )
    with pytest.raises(StorageError, match="0001") as caught:
        open_sqlite(old)
    assert "`coordinator migrate`" in caught.value.hint


def test_a_migration_that_fails_changes_nothing_and_leaves_a_copy(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions_with_one_more(
        old.parent,
        monkeypatch,
        "op.add_column('rounds', sa.Column('x', sa.Text)); op.drop_table('no_such_table')",
    )
    before = schema(old)
    with pytest.raises(StorageError, match="no such table"):
        migrate_sqlite(old)
    assert schema(old) == before
    assert schema(old.with_name("coordinator.0001.sqlite")) == before


def test_a_table_may_be_rebuilt_though_others_refer_to_it(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions_with_one_more(
        old.parent,
        monkeypatch,
        "with op.batch_alter_table('rounds') as rounds: rounds.drop_column('turn')",
    )
    assert migrate_sqlite(old) is not None
    assert "turn" not in str(schema(old)["rounds"])
    store = Store.over(open_sqlite(old))
    assert len(store.uploads.of_round(1)) == 1
    with pytest.raises(StorageError, match="FOREIGN KEY"), store.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM rounds")
    store.database.close()


def versions_with_one_more(folder: Path, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """Let the program know a revision after the newest, whose upgrade is ``statement``."""
    after = migrations.head()
    number = f"{int(after) + 1:04d}"
    made = folder / "migrations"
    (made / "versions").mkdir(parents=True)
    sources = [migrations.FOLDER / "env.py", *(migrations.FOLDER / "versions").glob("*.py")]
    for source in sources:
        target = made / source.relative_to(migrations.FOLDER)
        target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    (made / "versions" / f"{number}_test.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = '{number}', '{after}'\n"
        f"def upgrade():\n    {statement}\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(migrations, "FOLDER", made)
