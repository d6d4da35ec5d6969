"""The coordinator's keys are replaced in the middle of a round, twice; and somebody forges it.

The tests of this module tell one story and run in their order.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from federation.signing import Identity, SignedDocument
from federation.succession import SignedSuccession, Succession
from tests.e2e.test_federation import read_until, started
from tests.e2e.world import Done, World

pytestmark = pytest.mark.timeout(200)


def home(world: World) -> Path:
    return world.root / "coordinator"


def shown(world: World) -> str:
    """The fingerprint that the administrator has on paper."""
    found: str = world.must(world.coordinator("keys", "show", "--json")).last["coordinator"]
    return found


def believed(world: World, hospital: str) -> str:
    found: str = world.appliance(hospital, "status", "--json").last["coordinator_keys"]
    return found


def rotate(world: World) -> str:
    """As the administrator does it, while the server runs; gives the new fingerprint."""
    return str(world.must(world.coordinator("keys", "rotate", "--json")).last["fingerprint"])


def said(done: Done) -> list[str]:
    lines = [json.loads(line) for line in done.out.splitlines()]
    return [line["text"] for line in lines if "coordinator's keys changed" in line.get("text", "")]


def test_a_round_goes_on_across_two_rotations(world: World) -> None:
    for hospital in ("a", "b"):
        world.join(hospital)
    shutil.copy(home(world) / "keys" / "coordinator.pem", world.root / "stolen.pem")
    founding = shown(world)
    assert believed(world, "a") == believed(world, "b") == founding
    number = str(world.open_round()["round"])
    world.must(world.appliance("a", "train", "--round", number))
    # b holds the descriptor and is off while the keys are replaced twice.
    process = started(world, "b", "train", "--round", number)
    read_until(process, lambda line: line.get("event") == "TrainStep")
    process.kill()
    process.wait()
    descriptor = world.home("b") / "rounds" / f"{int(number):04d}" / "descriptor.json"
    held = descriptor.read_bytes()
    first = rotate(world)
    second = rotate(world)
    assert second == shown(world)
    assert len({founding, first, second}) == 3
    late = world.must(world.appliance("b", "train", "--round", number, "--json"))
    assert late.last["receipt"]["accepted"] is True
    (text,) = said(late)
    assert "signed by the administrator" in text
    assert f"fingerprint {second}, before {founding}." in text
    assert descriptor.read_bytes() == held
    world.await_published("a", int(number))


def test_both_hospitals_adopt_the_adapter_and_verify_the_log(world: World) -> None:
    for hospital in ("a", "b"):
        done = world.must(world.appliance(hospital, "sync", "--no-evaluate", "--json"))
        # a was told when it looked at the round's state.
        assert said(done) == []
        verified = world.must(world.appliance(hospital, "audit", "verify", "--json")).last
        # Roster, descriptor, receipt, record and both successions.
        assert verified["documents"] == 6
        assert verified["notes"] == []
        assert believed(world, hospital) == shown(world)
    entries = world.must(world.appliance("a", "audit", "show", "--json")).out.splitlines()
    assert [json.loads(line)["kind"] for line in entries].count("succession") == 2
    world.must(world.coordinator("audit", "verify"))
    again = world.must(world.appliance("a", "train", "--round", "1", "--json"))
    assert again.last["receipt"]["accepted"] is True


def test_a_hospital_that_joins_later_begins_with_the_present_keys(world: World) -> None:
    world.join("c")
    assert believed(world, "c") == shown(world)
    assert not (world.home("c") / "coordinator-keys.json").exists()


def test_a_backup_from_before_is_not_taken_for_one_of_now(world: World) -> None:
    made = world.must(world.coordinator("backup", str(world.root / "backup"), "--json")).last
    assert made["fingerprint"] == shown(world)
    target, wrapping = world.root / "restored", home(world) / "keys" / "wrapping.pem"
    arguments = (str(world.root / "backup"), "--home", str(target), "--wrapping-key", str(wrapping))
    old = believed(world, "a")
    refused = world.coordinator("restore", *arguments, "--fingerprint", rotate(world))
    assert refused.code == 3
    assert f"the keys {old}, not" in refused.err
    world.must(world.coordinator("restore", *arguments, "--fingerprint", old))


def forge(world: World, former: Path) -> None:
    """What a thief of former keys can do who also serves at the coordinator's address."""
    thief, new = Identity.load(former), Identity.generate()
    with closing(sqlite3.connect(home(world) / "coordinator.sqlite")) as database:
        last = database.execute("SELECT by_admin FROM successions ORDER BY number").fetchall()[-1]
        before = Succession.model_validate_json(SignedDocument.model_validate_json(last[0]).body)
        succession = Succession(
            federation="test",
            number=before.number + 1,
            former=before.new,
            new=new.public(),
            at=before.at,
        )
        signed = SignedSuccession.make(succession, thief, thief)
        database.execute(
            "INSERT INTO successions VALUES (?, ?, ?, ?)",
            (
                succession.number,
                new.public().digest(),
                signed.by_admin.to_json().decode(),
                signed.by_former.to_json().decode(),
            ),
        )
        database.commit()
    new.save(home(world) / "keys" / "coordinator.pem")


def test_a_forged_succession_is_refused(world: World) -> None:
    honest = believed(world, "a")
    assert honest == shown(world)
    forge(world, world.root / "stolen.pem")
    for command in (("sync", "--no-evaluate"), ("audit", "verify"), ("status",)):
        done = world.appliance("a", *command)
        assert done.code == 3, done.err
        assert "is not signed by the administrator's key" in done.err + done.out
    kept = json.loads((world.home("a") / "coordinator-keys.json").read_text())
    assert len(kept["links"]) == 3
    assert believed(world, "a") == honest


def test_old_keys_in_the_new_ones_place_are_refused(world: World) -> None:
    """The thief serves a copy from before the first rotation, with the keys of that time."""
    with closing(sqlite3.connect(home(world) / "coordinator.sqlite")) as database:
        database.execute("DELETE FROM successions")
        database.execute("DELETE FROM checkpoints")
        database.commit()
    shutil.copy(world.root / "stolen.pem", home(world) / "keys" / "coordinator.pem")
    world.stop()
    world.serve()
    done = world.appliance("a", "sync", "--no-evaluate")
    assert done.code == 3
    assert "went back to keys that were replaced" in done.err
    assert "0 of the 3 successions" in done.err
