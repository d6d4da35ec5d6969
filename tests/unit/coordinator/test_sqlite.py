"""The SQLite library: which one, its journal, and what is left in files."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.store import Store, sqlite
from coordinator.store.copying import copy_sqlite
from coordinator.store.database import Database, create_sqlite, migrate_sqlite, open_sqlite
from coordinator.store.members import InviteRow
from federation.errors import StorageError

needs_log = pytest.mark.skipif(
    sqlite.journal_mode() != "WAL", reason="this SQLite has the race of the write-ahead log"
)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "coordinator.sqlite"


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def stored(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.parent.glob(f"{path.name}*"))


def mode_of(database: Database) -> str:
    with database.read() as connection:
        return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())


@pytest.mark.parametrize(
    ("version", "mode"),
    [((3, 40, 1), "TRUNCATE"), ((3, 51, 2), "TRUNCATE"), ((3, 51, 3), "WAL"), ((3, 52, 0), "WAL")],
)
def test_the_write_ahead_log_only_without_its_race(version: tuple[int, ...], mode: str) -> None:
    assert sqlite.journal_mode(version) == mode


def test_the_standard_library_where_it_is_new_enough_or_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    assert sqlite._newest() is sqlite3
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    monkeypatch.setitem(sys.modules, "pysqlite3", None)
    assert sqlite._newest() is sqlite3
    monkeypatch.undo()
    if sqlite3.sqlite_version_info < (3, 51, 3) and sqlite.journal_mode() == "WAL":
        assert sqlite.library.__name__ == "pysqlite3"


def test_no_other_journal_than_the_wanted_one_is_used() -> None:
    with (
        closing(sqlite.library.connect(":memory:")) as connection,
        pytest.raises(StorageError, match="keeps its journal as memory"),
    ):
        sqlite.configure(connection)


@needs_log
def test_all_files_are_for_the_owner_alone_and_a_clean_end_leaves_one(path: Path) -> None:
    database = create_sqlite(path)
    database.check_writable()
    modes = {p.name: p.stat().st_mode & 0o777 for p in path.parent.iterdir()}
    assert modes == {path.name + end: 0o600 for end in ("", "-wal", "-shm")}
    database.close()
    assert list(path.parent.iterdir()) == [path]


@needs_log
def test_a_database_of_an_older_version_goes_on_with_the_log(path: Path) -> None:
    create_sqlite(path).close()
    with closing(sqlite.library.connect(path)) as old:
        old.execute("PRAGMA journal_mode = TRUNCATE")
        old.execute("INSERT INTO invites VALUES ('a', 'h01', 1, NULL)")
        old.commit()
        before = path.read_bytes()
        # Killed within a transaction that had reached the file: its journal is hot.
        old.execute("PRAGMA cache_size = 1")
        old.executemany(
            "INSERT INTO invites VALUES (?, 'h02', 1, NULL)", ((f"{i:064d}",) for i in range(999))
        )
        killed = path.with_name("killed.sqlite")
        shutil.copy(path, killed)
        journal = shutil.copy(f"{path}-journal", f"{killed}-journal")
        assert killed.read_bytes() != before
        assert Path(journal).stat().st_size
    assert migrate_sqlite(killed) is None
    database = open_sqlite(killed)
    assert mode_of(database) == "wal"
    assert Store.over(database).members.invite("a") is not None
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM invites").scalar_one() == 1


@needs_log
def test_only_who_has_the_database_alone_changes_its_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_sqlite(path).close()
    with closing(sqlite.library.connect(path)) as old:
        old.execute("PRAGMA journal_mode = TRUNCATE")
    # Another command beside a server of an older version.
    command = open_sqlite(path)
    command.check_writable()
    assert mode_of(command) == "truncate"
    monkeypatch.setattr(sqlite.connect, "__defaults__", (0.1,))
    with command.read() as reading:
        reading.exec_driver_sql("SELECT * FROM invites").all()
        with pytest.raises(StorageError, match="locked"):
            migrate_sqlite(path)
    assert migrate_sqlite(path) is None
    assert mode_of(open_sqlite(path)) == "wal"
    command.check_writable()


def test_a_library_with_the_race_takes_no_log_that_is_in_use(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = create_sqlite(path)
    database.check_writable()
    monkeypatch.setattr(sqlite, "journal_mode", lambda: "TRUNCATE")
    monkeypatch.setattr("coordinator.store.database.BUSY_SECONDS", 0.1)
    if mode_of(database) == "wal":
        with pytest.raises(StorageError, match="locked"):
            open_sqlite(path)
    database.close()
    assert mode_of(open_sqlite(path)) == "truncate"


@needs_log
def test_what_was_destroyed_is_in_no_file_once_no_one_reads_an_older_state(path: Path) -> None:
    database = create_sqlite(path)
    secret = "7e57" * 16
    members = Store.over(database).members
    members.add_invite(InviteRow(secret, "h01", expires=1))
    with closing(sqlite.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM invites").fetchall()
        members.forget(invites_before=2, nonces_before=0)
        assert not database.empty_log()
        assert secret.encode() in stored(path)
    assert database.empty_log()
    assert secret.encode() not in stored(path)
    assert log_of(path).stat().st_size == 0


@needs_log
def test_a_long_reader_leaves_no_long_log(path: Path) -> None:
    database = create_sqlite(path)
    members = Store.over(database).members

    def work(times: int) -> None:
        for i in range(times):
            with database.write() as connection:
                connection.exec_driver_sql(
                    "UPDATE rosters SET document = zeroblob(?)", (400_000 + i,)
                )

    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO rosters VALUES (0, 'a', zeroblob(400000))")
    with closing(sqlite.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM rosters").fetchall()
        work(20)
        assert log_of(path).stat().st_size > 6 << 20
    work(20)
    assert log_of(path).stat().st_size <= 5 << 20
    assert members.invite("a") is None


def test_a_copy_needs_nothing_beside_it(path: Path, folder: Path) -> None:
    database = create_sqlite(path)
    Store.over(database).members.add_invite(InviteRow("0" * 64, "h01", 1))
    copy = folder / "copies" / "copy.sqlite"
    copy.parent.mkdir()
    # Left by a copy that was killed: not of this one.
    copy.with_name(".copy.sqlite.new-wal").write_bytes(b"old")
    copy_sqlite(path, copy)
    assert list(copy.parent.iterdir()) == [copy]
    with closing(sqlite.library.connect(f"{copy.as_uri()}?immutable=1", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT hospital FROM invites").fetchall() == [("h01",)]
