"""The audit log: what it holds, that it only grows, and that an edited database is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from coordinator import audit
from coordinator.cli import cli
from coordinator.enrolment import approve, revoke
from coordinator.rounds import Request, State
from coordinator.store import Store
from coordinator.store.database import create_sqlite
from coordinator.store.members import InviteRow
from coordinator.store.sqlite import library as sqlite3
from federation import merkle
from federation.canonical import sha256
from federation.errors import InputError, StorageError
from federation.log import (
    MAX_ENTRIES,
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    LogEntries,
    LogEntry,
)
from federation.messages import RoundDescriptor
from federation.signing import SignedDocument
from federation.terminal import run
from tests.unit.coordinator.hospital import Hospital, problem, trained
from tests.unit.coordinator.world import World


def logged(world: World) -> list[LogEntry]:
    log = world.coordinator.store.log
    return [LogEntry.model_validate_json(text) for text in log.entries(0, log.head().size)]


def kinds(world: World) -> list[str]:
    return [entry.kind for entry in logged(world)]


def opened(world: World) -> Checkpoint:
    document = audit.checkpoint(world.coordinator)
    return document.open(Checkpoint, world.coordinator.identity.public(), "checkpoint")


def edit(world: World, statement: str, *values: object) -> None:
    """What somebody does who has the database file."""
    with closing(sqlite3.connect(world.paths.database)) as db:
        assert db.execute(statement, values).rowcount >= 1
        db.commit()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two hospitals, of which one is revoked; a published round with a refusal; an aborted one."""
    world = World.create(tmp_path_factory.mktemp("played"))
    h01, h02 = world.member("h01"), world.member("h02")
    world.open(quorum=1)
    descriptor = RoundDescriptor.model_validate_json(h02.document(1).body)
    infinite = [(name, tensor + np.inf) for name, tensor in trained(descriptor, "h02")]
    assert not h02.upload(h02.seal(1, infinite)).accepted
    assert h01.upload(h01.seal(1)).accepted
    assert h02.upload(h02.seal(1)).accepted
    revoke(world.coordinator, world.admin, "h02")
    assert world.advance(1).state is State.PUBLISHED
    world.open(base=False)
    assert world.advance(2, Request.ABORT).state is State.ABORTED
    yield world
    world.client.close()
    world.coordinator.store.database.close()


@pytest.fixture
def played(once: World) -> Iterator[World]:
    """The same world for each test, whatever the one before did to its database."""
    with (
        closing(sqlite3.connect(":memory:")) as before,
        closing(sqlite3.connect(once.paths.database)) as db,
    ):
        db.backup(before)
        yield once
        before.backup(db)


def test_every_act_is_logged_once_with_its_document(played: World) -> None:
    store, entries = played.coordinator.store, logged(played)
    assert [(e.kind, e.hospital, e.round) for e in entries] == [
        ("founding", None, None),
        ("invite", "h01", None),
        ("enrolment", "h01", None),
        ("approval", "h01", None),
        ("invite", "h02", None),
        ("enrolment", "h02", None),
        ("approval", "h02", None),
        ("opening", None, 1),
        ("refusal", "h02", 1),
        ("receipt", "h01", 1),
        ("receipt", "h02", 1),
        ("revocation", "h02", None),
        ("exclusion", "h02", 1),
        ("close", None, 1),
        ("aggregation", None, 1),
        ("publication", None, 1),
        ("opening", None, 2),
        ("abort", None, 2),
    ]
    assert [e.index for e in entries] == list(range(len(entries)))
    assert {e.at for e in entries} == {played.clock.now}
    row = store.rounds.get(1)
    assert row is not None
    assert row.record is not None
    by_kind = {e.kind: e for e in entries if e.round == 1}
    assert by_kind["opening"].sha256 == row.document.body_sha256
    assert by_kind["publication"].sha256 == row.record.body_sha256
    assert row.adapter_sha256 is not None
    assert row.adapter_sha256 in by_kind["aggregation"].detail
    receipts = {u.signed_receipt().body_sha256 for u in store.uploads.of_round(1)}  # type: ignore[union-attr]
    assert {e.sha256 for e in entries if e.kind in ("receipt", "refusal")} == receipts
    assert audit.verify(played.coordinator).findings == []


def test_what_is_repeated_or_refused_logs_nothing(world: World) -> None:
    h01 = world.member("h01")
    world.open()
    update = h01.seal(1)
    h01.upload(update)
    before = kinds(world)
    assert h01.invite is not None
    assert h01.enrol(h01.invite).status_code == 200
    approve(world.coordinator, world.admin, "h01")
    assert h01.commit(update).status_code == 200
    assert problem(h01.announce(h01.seal(1)))[0] == 409
    assert kinds(world) == before
    world.advance(1)
    after = kinds(world)
    world.advance(1)
    assert kinds(world) == after


def test_an_act_that_fails_leaves_no_entry(folder: Path) -> None:
    store = Store.over(create_sqlite(folder / "coordinator.sqlite"))
    store.members.add_invite(InviteRow("0" * 64, "h01", 1))
    with pytest.raises(StorageError):
        store.members.add_invite(InviteRow("0" * 64, "h02", 1))
    assert store.log.head().size == 1
    assert "h02" not in store.log.entries(0, 9)[0]
    store.database.close()


def test_a_checkpoint_is_signed_once_for_each_state(world: World) -> None:
    first = audit.checkpoint(world.coordinator)
    world.clock.now += 100
    assert audit.checkpoint(world.coordinator) == first
    world.invite("h01")
    second = opened(world)
    assert (second.size, second.at) == (2, world.clock.now)
    assert (
        world.coordinator.store.log.root(1).hex()
        == Checkpoint.model_validate_json(first.body).root_sha256
    )


def test_the_last_checkpoint_never_goes_back(world: World) -> None:
    log = world.coordinator.store.log
    first = audit.checkpoint(world.coordinator)
    world.invite("h01")
    second = audit.checkpoint(world.coordinator)
    log.keep_checkpoint(1, first)
    assert log.last_checkpoint() == second


def ask(hospital: Hospital, path: str) -> bytes:
    response = hospital.request("GET", f"/v1/log/{path}")
    assert response.status_code == 200, response.text
    return response.content


def test_a_hospital_can_check_everything_by_http(world: World) -> None:
    h01 = world.member("h01")
    old = opened(world)
    world.open()
    document = SignedDocument.model_validate_json(ask(h01, "checkpoint"))
    new = document.open(Checkpoint, world.coordinator.identity.public(), "checkpoint")
    page = LogEntries.model_validate_json(ask(h01, f"entries?start=0&end={new.size}"))
    tree = merkle.Tree()
    for text in page.entries:
        tree.append(merkle.leaf_hash(text.encode()))
    root = bytes.fromhex(new.root_sha256)
    assert (tree.size, tree.root()) == (new.size, root)
    for index, text in enumerate(page.entries):
        answer = ask(h01, f"inclusion?index={index}&size={new.size}")
        path = [bytes.fromhex(h) for h in InclusionProof.model_validate_json(answer).path]
        leaf = merkle.leaf_hash(text.encode())
        assert merkle.verify_inclusion(leaf, index, new.size, path, root)
    answer = ask(h01, f"consistency?first={old.size}&second={new.size}")
    path = [bytes.fromhex(h) for h in ConsistencyProof.model_validate_json(answer).path]
    assert merkle.verify_consistency(old.size, new.size, bytes.fromhex(old.root_sha256), root, path)


@pytest.mark.parametrize(
    "path",
    [
        "entries?start=5&end=5",
        "entries?start=-1&end=5",
        "entries?start=0",
        "entries?start=0&end=99999999999999999999",
        "inclusion?index=0&size=99",
        "inclusion?index=4&size=4",
        "inclusion?index=0&size=0",
        "consistency?first=0&second=3",
        "consistency?first=3&second=2",
        "consistency?first=1&second=99",
    ],
)
def test_what_the_log_cannot_answer_is_said(world: World, path: str) -> None:
    h01 = world.member("h01")
    assert problem(h01.request("GET", f"/v1/log/{path}"))[:2] == (422, "invalid-input")


def test_the_log_is_for_members(world: World) -> None:
    for path in ("checkpoint", "entries?start=0&end=1"):
        assert problem(world.client.get(f"/v1/log/{path}"))[0] == 401


def reattach(world: World) -> None:
    """Rewrite entry 1 and every hash over it, as somebody would who knows how."""
    text = world.coordinator.store.log.entries(1, 2)[0].replace("h01", "h99")
    edit(world, 'UPDATE log SET entry = ? WHERE "index" = 1', text)
    tree = merkle.Tree()
    for entry in world.coordinator.store.log.entries(0, 1000):
        for level, position, value in tree.append(merkle.leaf_hash(entry.encode())):
            statement = "UPDATE log_nodes SET hash = ? WHERE level = ? AND position = ?"
            edit(world, statement, value, level, position)


TAMPERING: dict[str, tuple[Callable[[World], None], str]] = {
    "an entry's text": (
        lambda w: edit(
            w, "UPDATE log SET entry = replace(entry, 'h01', 'h99') WHERE \"index\" = 2"
        ),
        "entry 2 has another hash",
    ),
    "no JSON": (
        lambda w: edit(w, "UPDATE log SET entry = 'x' WHERE \"index\" = 2"),
        "entry 2 is not an entry",
    ),
    "a hash": (
        lambda w: edit(w, "UPDATE log_nodes SET hash = zeroblob(32) WHERE level = 1"),
        "entry 1 has another hash",
    ),
    "a gap": (lambda w: edit(w, 'DELETE FROM log WHERE "index" = 3'), "entry 3 is not an entry"),
    "the end": (lambda w: edit(w, 'DELETE FROM log WHERE "index" > 9'), "10 entries are left of"),
    "all hashes anew": (reattach, "are not those that were signed"),
    "a receipt": (
        lambda w: edit(
            w,
            "UPDATE uploads SET receipt = replace(receipt, 'h01', 'h09') WHERE hospital = 'h01'",
        ),
        "(receipt, h01, round 1) is gone or changed",
    ),
    "a torn receipt": (
        lambda w: edit(
            w, "UPDATE uploads SET receipt = substr(receipt, 1, 99) WHERE hospital = 'h01'"
        ),
        "the receipt of upload",
    ),
    "a record": (
        lambda w: edit(w, "UPDATE rounds SET record = NULL WHERE number = 2"),
        "(abort, round 2) is gone or changed",
    ),
    "a roster": (
        lambda w: edit(
            w,
            "UPDATE rosters SET document = replace(document, 'demo-net', 'demo-not') "
            "WHERE version = 1",
        ),
        "(approval, h01) is gone or changed",
    ),
    "the checkpoint": (
        lambda w: edit(w, "UPDATE checkpoints SET document = replace(document, ':18', ':17')"),
        "not signed by this coordinator",
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_an_edited_database_is_found(played: World, name: str) -> None:
    opened(played)
    tamper, finding = TAMPERING[name]
    tamper(played)
    found = audit.verify(played.coordinator).findings
    assert any(finding in line for line in found), found


def test_a_document_that_was_slipped_in_is_found(played: World) -> None:
    edit(
        played,
        "INSERT INTO rosters SELECT 9, 'x', replace(document, 'demo-net', 'demo-not') "
        "FROM rosters WHERE version = 1",
    )
    found = audit.verify(played.coordinator).findings
    assert found == ["the roster, version 9 is not in the log"]


@pytest.mark.parametrize("name", ["the end", "all hashes anew"])
def test_an_altered_log_is_not_signed_again(played: World, name: str) -> None:
    opened(played)
    TAMPERING[name][0](played)
    if name == "the end":
        edit(played, "DELETE FROM log_nodes WHERE ((position + 1) << level) > 10")
    played.invite("h03")
    with pytest.raises(StorageError, match="does not begin with") as caught:
        audit.checkpoint(played.coordinator)
    assert "coordinator audit verify" in caught.value.hint


def command(world: World, *arguments: str) -> int:
    return run(cli, ["--home", str(world.paths.home), "audit", *arguments])


def test_verify_says_what_differs(played: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(played, "verify", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["size"] == len(logged(played))
    assert said["documents"] > 5
    TAMPERING["a receipt"][0](played)
    assert command(played, "verify") == 9
    err = capsys.readouterr().err
    assert "(receipt, h01, round 1)" in err
    assert "-> Stop the coordinator" in err


def test_a_torn_database_is_said_not_dumped(
    played: World, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(played, "UPDATE rosters SET document = substr(document, 1, 99)")
    assert command(played, "verify") == 9
    assert "-> Restore the newest good backup" in capsys.readouterr().err


def test_an_export_stands_on_its_own(played: World, folder: Path) -> None:
    out = folder / "log.jsonl"
    assert command(played, "export", "--out", str(out)) == 0
    *entries, last = out.read_bytes().splitlines()
    document = SignedDocument.model_validate_json(last)
    checkpoint = document.open(Checkpoint, played.coordinator.identity.public(), "checkpoint")
    tree = merkle.Tree()
    for line in entries:
        tree.append(merkle.leaf_hash(line))
    assert (tree.size, tree.root().hex()) == (checkpoint.size, checkpoint.root_sha256)
    shown = CliRunner().invoke(cli, ["--home", str(played.paths.home), "audit", "export"])
    assert shown.stdout_bytes == out.read_bytes()


def test_no_altered_log_is_exported(
    played: World, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(played)
    TAMPERING["an entry's text"][0](played)
    out = folder / "log.jsonl"
    assert command(played, "export", "--out", str(out)) == 9
    assert "entry 2 has another hash" in capsys.readouterr().err
    assert not out.exists()


def test_many_entries_stay_quick_to_prove(folder: Path) -> None:
    """A page is bounded, and a proof reads about as many hashes as the tree is high."""
    store = Store.over(create_sqlite(folder / "coordinator.sqlite"))
    size = MAX_ENTRIES + 50
    with store.database.write() as connection:
        for number in range(size):
            store.log.append(connection, kind="invite", detail=sha256(bytes([number % 256])))
    head = store.log.head()
    assert head.size == size
    leaves = [merkle.leaf_hash(text.encode()) for text in store.log.entries(0, size)]
    for index in (0, 1, 511, 512, size - 1):
        path = store.log.inclusion(index, size)
        assert len(path) <= size.bit_length()
        assert merkle.verify_inclusion(leaves[index], index, size, path, head.root)
    store.database.close()


def test_a_page_is_bounded(world: World) -> None:
    log = world.coordinator.store.log
    with world.coordinator.store.database.write() as connection:
        for _ in range(MAX_ENTRIES):
            log.append(connection, kind="invite")
    assert len(audit.entries(world.coordinator, 0, 10_000).entries) == MAX_ENTRIES
    assert len(audit.entries(world.coordinator, MAX_ENTRIES, 10_000).entries) == 1
    assert audit.entries(world.coordinator, 9000, 9001).entries == ()
    with pytest.raises(InputError):
        audit.entries(world.coordinator, 3, 2)
    assert audit.verify(world.coordinator).findings == []
