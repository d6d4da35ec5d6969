"""New signing keys for the coordinator: wherever it is cut off, working keys and one succession."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from coordinator import audit, succession
from coordinator.config import load_config
from coordinator.context import Coordinator, open_coordinator
from coordinator.rounds import State
from coordinator.store.successions import Successions
from coordinator.succession import rotate
from federation.errors import IdentityError, InputError, StorageError
from federation.messages import PublicIdentity, Receipt, RoundDescriptor
from federation.signing import Identity, SignedDocument, fingerprint
from federation.succession import SignedSuccession, SuccessionChain
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World


@pytest.fixture
def two(world: World) -> tuple[Hospital, Hospital]:
    pair = world.member("h01"), world.member("h02")
    world.open()
    return pair


def another_process(world: World) -> Coordinator:
    return open_coordinator(world.paths, load_config(world.paths.config), clock=world.clock)


def served(world: World) -> SuccessionChain:
    answer = world.client.get("/v1/coordinator-keys")
    assert answer.status_code == 200, answer.text
    return SuccessionChain.model_validate_json(answer.content)


def trusted(world: World, pinned: PublicIdentity) -> PublicIdentity:
    """The keys that a hospital believes which pinned these."""
    chain = served(world).since(pinned)
    return chain.keys("demo-net", world.admin.public(), pinned)[-1]


def descriptor(hospital: Hospital, keys: PublicIdentity) -> RoundDescriptor:
    return hospital.document(1).open(RoundDescriptor, keys, "descriptor")


def test_a_round_goes_on_and_everything_served_is_signed_by_the_new_keys(
    world: World, two: tuple[Hospital, Hospital]
) -> None:
    h01, h02 = two
    sealed = h01.seal(1), h02.seal(1)
    pinned = world.coordinator.identity.public()
    first = h01.upload(sealed[0])
    assert first.accepted
    digest = h01.document(1).body_sha256
    # Another process does it, as the command does beside a server.
    other = another_process(world)
    done = rotate(other, world.admin)
    other.store.database.close()
    now = trusted(world, pinned)
    assert (done.former, done.fingerprint) == (fingerprint(pinned), fingerprint(now))
    assert world.coordinator.identity.public() == now
    for hospital in two:
        assert hospital.invite is not None
        hospital.invite = hospital.invite.model_copy(update={"coordinator": now})
    # The descriptor and the receipt of before, and what is new: same texts, the new keys.
    assert descriptor(h01, now).round == 1
    assert h01.document(1).body_sha256 == digest
    assert h01.receipt(h01.commit(sealed[0])) == first
    assert h02.upload(sealed[1]).accepted
    assert world.advance(1).state is State.PUBLISHED
    assert [c.hospital for c in h01.record(1).contributions] == ["h01", "h02"]
    with pytest.raises(IdentityError):
        descriptor(h01, pinned)
    assert world.invite("h03").coordinator == now
    # Once more: two links, and documents of the first keys are still renewed.
    rotate(world.coordinator, world.admin)
    newest = trusted(world, pinned)
    assert trusted(world, now) == newest != now
    assert descriptor(h01, newest).round == 1


def test_it_is_in_the_log_which_stays_in_order(
    world: World, two: tuple[Hospital, Hospital]
) -> None:
    before = audit.checkpoint(world.coordinator)
    rotate(world.coordinator, world.admin)
    # The last checkpoint is of the former keys: in order, and signed anew when it is asked for.
    assert audit.verify(world.coordinator).findings == []
    after = audit.checkpoint(world.coordinator)
    with pytest.raises(IdentityError):
        after.verify(before_keys(world), "checkpoint")
    before.verify(before_keys(world), "checkpoint")
    entry = json.loads(world.coordinator.store.log.entries(0, 100)[-1])
    (link,) = served(world).links
    assert (entry["kind"], entry["sha256"]) == ("succession", link.sha256)


def before_keys(world: World) -> PublicIdentity:
    return served(world).links[-1].claimed().former


def now(world: World) -> str:
    return fingerprint(world.coordinator.identity.public())


def test_another_admin_key_is_refused(world: World) -> None:
    with pytest.raises(IdentityError, match="not the federation's admin key"):
        rotate(world.coordinator, world.coordinator.identity)
    assert served(world).links == ()
    assert not (world.paths.keys / "coordinator.next.pem").exists()


class PowerCut(Exception):
    """Ends a step as a power cut would."""


Cut = Callable[[pytest.MonkeyPatch, bool], None]


def cut_saving(patch: pytest.MonkeyPatch, after: bool) -> None:
    real = Identity.save

    def save(self: Identity, path: Path, passphrase: str | None = None) -> None:
        if after:
            real(self, path, passphrase)
        raise PowerCut

    patch.setattr(Identity, "save", save)


def cut_commit(patch: pytest.MonkeyPatch, after: bool) -> None:
    real = Successions.add

    def add(self: Successions, *given: object) -> None:
        if after:
            real(self, *given)  # type: ignore[arg-type]
        raise PowerCut

    patch.setattr(Successions, "add", add)


def cut_rename(patch: pytest.MonkeyPatch, after: bool) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(source).name != "coordinator.next.pem":
            real(source, target)
            return
        if after:
            real(source, target)
        raise PowerCut

    patch.setattr(os, "replace", replace)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("cut", [cut_saving, cut_commit, cut_rename])
def test_a_rotation_that_was_cut_off_leaves_working_keys_and_is_finished_by_the_next(
    world: World,
    two: tuple[Hospital, Hospital],
    monkeypatch: pytest.MonkeyPatch,
    cut: Cut,
    after: bool,
) -> None:
    pinned = world.coordinator.identity.public()
    with monkeypatch.context() as patch:
        cut(patch, after)
        with pytest.raises(PowerCut):
            rotate(world.coordinator, world.admin)
    committed = cut is cut_rename or (cut is cut_commit and after)
    # Both the server and a new process sign by the keys that the database names.
    fresh = another_process(world)
    for coordinator in (world.coordinator, fresh):
        assert coordinator.identity.public() == trusted(world, pinned)
    assert (trusted(world, pinned) != pinned) is committed
    assert descriptor(two[0], trusted(world, pinned)).round == 1
    done = rotate(fresh, world.admin)
    fresh.store.database.close()
    renamed = cut is cut_rename and after
    # Only where nothing at all was left to do is the same command another rotation.
    assert done.number == (2 if renamed else 1)
    assert done.only_finished is (committed and not renamed)
    assert not (world.paths.keys / "coordinator.next.pem").exists()
    assert Identity.load(world.paths.identity).public() == trusted(world, pinned)
    assert now(world) == done.fingerprint
    assert world.paths.identity.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rotated_before", [False, True])
@pytest.mark.parametrize("planted", ["strange", "present"])
def test_a_key_that_lies_there_is_never_signed_in(
    world: World, planted: str, rotated_before: bool
) -> None:
    if rotated_before:
        rotate(world.coordinator, world.admin)
    before = now(world)
    waiting = world.paths.keys / "coordinator.next.pem"
    strange = Identity.generate()
    if planted == "strange":
        strange.save(waiting)
    else:
        waiting.write_bytes(world.paths.identity.read_bytes())
    done = rotate(world.coordinator, world.admin)
    assert (done.former, done.only_finished) == (before, False)
    assert done.fingerprint not in (before, fingerprint(strange.public()))
    assert now(world) == done.fingerprint


def test_a_server_that_cannot_read_its_keys_does_not_blame_the_hospital(world: World) -> None:
    other = another_process(world)
    rotate(other, world.admin)
    other.store.database.close()
    world.paths.identity.unlink()
    with pytest.raises(StorageError, match="present keys"):
        world.coordinator.identity.public()


def test_keys_that_do_not_belong_to_the_database_are_refused(world: World) -> None:
    old = world.paths.identity.read_bytes()
    rotate(world.coordinator, world.admin)
    world.paths.identity.write_bytes(old)
    with pytest.raises(IdentityError, match="does not hold the coordinator's present keys"):
        another_process(world)


def test_keys_are_replaced_as_often_as_hospitals_follow(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "MAX_SUCCESSIONS", 1)
    rotate(world.coordinator, world.admin)
    with pytest.raises(InputError, match="replaced 1 times"):
        rotate(world.coordinator, world.admin)
    assert len(served(world).links) == 1


def edit(world: World, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(world.paths.database)) as database:
        database.execute(statement, values)
        database.commit()


def test_an_altered_document_is_not_signed_anew(
    world: World, two: tuple[Hospital, Hospital]
) -> None:
    former = world.coordinator.identity
    rotate(world.coordinator, world.admin)
    row = world.coordinator.store.rounds.get(1)
    assert row is not None
    body = row.document.body.replace('"quorum":2', '"quorum":1')
    assert body != row.document.body
    stranger = SignedDocument.sign_text(body, Identity.generate(), "descriptor")
    wrong_purpose = SignedDocument.sign_text(body, former, "record")
    altered = row.document.model_copy(update={"body": body})
    for document in (stranger, wrong_purpose, altered):
        edit(world, "UPDATE rounds SET descriptor = ?", document.to_json().decode())
        answer = two[0].request("GET", "/v1/rounds/1")
        assert answer.status_code == 507
        assert "not signed by any of the coordinator's keys" in answer.text


def test_a_succession_that_was_slipped_in_lends_its_keys_nothing(
    world: World, two: tuple[Hospital, Hospital]
) -> None:
    """Whoever edits the database must not make the coordinator sign for keys of their own."""
    audit.checkpoint(world.coordinator)
    rotate(world.coordinator, world.admin)
    (link,) = served(world).links
    thief = Identity.generate()
    claimed = link.claimed().model_copy(update={"former": thief.public()})
    forged = SignedSuccession.make(claimed, thief, thief)
    edit(
        world,
        "UPDATE successions SET by_admin = ?, by_former = ?",
        forged.by_admin.to_json().decode(),
        forged.by_former.to_json().decode(),
    )
    answer = two[0].request("GET", "/v1/rounds/1")
    assert answer.status_code == 507
    assert "succession that was altered" in answer.text
    findings = " ".join(audit.verify(world.coordinator).findings)
    assert "succession that was altered" in findings
    assert "succession, number 1 is not in the log" in findings
    with pytest.raises(StorageError):
        succession.former_keys(world.coordinator)


def test_a_refused_update_frees_its_slot_under_new_keys_too(
    world: World, two: tuple[Hospital, Hospital]
) -> None:
    h01, _ = two
    shapes = descriptor(h01, world.coordinator.identity.public()).adapter_schema.shapes()
    infinite = [(name, np.full(shape, np.inf, np.float32)) for name, shape in shapes.items()]
    bad = h01.seal(1, infinite)
    refused = h01.upload(bad)
    assert not refused.accepted
    rotate(world.coordinator, world.admin)
    assert h01.invite is not None
    h01.invite = h01.invite.model_copy(update={"coordinator": world.coordinator.identity.public()})
    again = SignedDocument.model_validate_json(h01.commit(bad).content)
    assert again.open(Receipt, world.coordinator.identity.public(), "receipt") == refused
    assert h01.upload(h01.seal(1)).accepted
