"""The database: durability settings, versions, exclusive transactions."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from coordinator.store import Store
from coordinator.store.database import create_sqlite, open_sqlite
from coordinator.store.members import Candidate, InviteRow
from coordinator.store.sqlite import journal_mode
from federation.errors import StorageError
from federation.membership import Roster
from federation.signing import Identity, SignedDocument


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "coordinator.sqlite"


def test_settings_for_durability(path: Path) -> None:
    database = create_sqlite(path)
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in (
                "synchronous",
                "fullfsync",
                "foreign_keys",
                "secure_delete",
                "journal_mode",
            )
        }
    extra = 3
    assert pragmas == {
        "synchronous": extra,
        "fullfsync": 1,
        "foreign_keys": 1,
        "secure_delete": 1,
        "journal_mode": journal_mode().lower(),
    }


def test_a_missing_or_foreign_file_is_refused(path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        open_sqlite(path)
    path.write_bytes(b"not a database at all, but long enough to look" * 50)
    with pytest.raises(StorageError, match="not a database"):
        open_sqlite(path)


def test_a_failed_transaction_leaves_nothing(path: Path) -> None:
    store = Store.over(create_sqlite(path))
    store.members.add_invite(InviteRow("0" * 64, "h01", 1))
    with pytest.raises(StorageError):
        store.members.add_invite(InviteRow("0" * 64, "h02", 1))
    found = store.members.invite("0" * 64)
    assert found is not None
    assert found.hospital == "h01"


def test_two_rosters_cannot_follow_the_same_one(path: Path) -> None:
    store = Store.over(create_sqlite(path))
    admin = Identity.generate()
    for version in (0, 1):
        roster = Roster(federation="net", version=version, members=())
        document = SignedDocument.sign(roster, admin, "roster")
        store.members.add_roster(version, document, kind="founding")
    with pytest.raises(StorageError, match="at the same time"):
        store.members.add_roster(1, document, kind="founding")


def test_an_invite_is_spent_once_among_many_threads(path: Path) -> None:
    store = Store.over(create_sqlite(path))
    store.members.add_invite(InviteRow("0" * 64, "h01", 1))
    candidate = Candidate("h01", Identity.generate().public(), 1)
    won: list[bool] = []

    def spend(i: int) -> None:
        won.append(store.members.use_invite("0" * 64, f"{i:064d}", candidate))

    threads = [threading.Thread(target=spend, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_a_nonce_is_new_once_and_forgotten_when_it_expires(path: Path) -> None:
    members = Store.over(create_sqlite(path)).members
    assert members.remember_nonce("h01", "n", expires=10, now=5)
    assert not members.remember_nonce("h01", "n", expires=10, now=10)
    assert members.remember_nonce("h02", "n", expires=10, now=10)
    assert members.remember_nonce("h01", "n", expires=20, now=11)


def test_a_write_waits_for_the_one_before_it_but_not_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = create_sqlite(path)
    monkeypatch.setattr("coordinator.store.database.BUSY_SECONDS", 0.1)
    with database.write(), pytest.raises(StorageError, match="busy"), database.write():
        pass
    database.check_writable()
