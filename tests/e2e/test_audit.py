"""The audit log by its commands, and somebody who edits the coordinator's database.

The tests of this module tell one story and run in their order.
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.store.sqlite import library as sqlite3
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(120)


def database(world: World) -> Path:
    return world.root / "coordinator" / "coordinator.sqlite"


def edit(world: World, *statements: str) -> None:
    """Change the database under the running server, as whoever has the file can."""
    with closing(sqlite3.connect(database(world))) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def test_a_hospital_verifies_the_log(world: World) -> None:
    for hospital in ("a", "b"):
        world.join(hospital)
    number = world.open_round("--quorum", "1", "--steps", "1")["round"]
    world.must(world.appliance("a", "train", "--round", str(number)))
    world.must(world.coordinator("round", "close"))
    world.must(world.appliance("a", "sync", "--no-evaluate"))
    done = world.must(world.appliance("a", "audit", "verify", "--json")).last
    assert done["documents"] == 4
    assert done["notes"] == []
    shown = world.must(world.appliance("a", "audit", "show", "--round", str(number), "--json"))
    kinds = [json.loads(line)["kind"] for line in shown.out.splitlines()]
    assert kinds == ["opening", "receipt", "close", "aggregation", "publication"]
    assert world.must(world.coordinator("audit", "verify", "--json")).last["size"] == done["size"]


def test_two_hospitals_compare_what_they_see(world: World) -> None:
    assert "audit verify" in world.appliance("b", "audit", "checkpoint").err
    world.must(world.appliance("b", "audit", "verify"))
    file = world.root / "b.checkpoint.json"
    seen = world.must(world.appliance("b", "audit", "checkpoint", "--out", str(file), "--json"))
    own = world.must(world.appliance("a", "audit", "checkpoint", "--json")).last
    assert seen.last["short"] == own["short"]
    assert world.must(world.appliance("a", "audit", "compare", str(file), "--json")).last == {
        "size": own["size"],
        "root_sha256": own["root_sha256"],
    }
    wrong = world.root / "b.invite.json"
    assert world.appliance("a", "audit", "compare", str(wrong)).code == 2


def test_an_edited_entry_is_found_on_both_sides(world: World) -> None:
    rewrite = "UPDATE log SET entry = replace(entry, '\"{}\"', '\"{}\"')"
    edit(world, rewrite.format("receipt", "refusal"), "DELETE FROM checkpoints")
    done = world.coordinator("audit", "verify")
    assert done.code == 9
    assert "has another hash than when it was written" in done.err
    # What it signs is still the old tree; what it sends is not, as a fresh eye sees.
    shutil.rmtree(world.home("b") / "audit")
    done = world.appliance("b", "audit", "verify")
    assert done.code == 3
    assert "not those of its signed checkpoint" in done.err
    edit(world, rewrite.format("refusal", "receipt"))
    world.must(world.coordinator("audit", "verify"))


def test_a_shortened_log_stops_verify_and_sync(world: World) -> None:
    size = world.must(world.appliance("a", "audit", "verify", "--json")).last["size"]
    left = size - 2
    edit(
        world,
        f'DELETE FROM log WHERE "index" >= {left}',
        f"DELETE FROM log_nodes WHERE ((position + 1) << level) > {left}",
    )
    # Its own last checkpoint tells the coordinator, which then signs nothing.
    done = world.appliance("a", "audit", "verify")
    assert done.code == 9
    assert "does not begin with" in done.err
    edit(world, "DELETE FROM checkpoints")
    for command in (("audit", "verify"), ("sync", "--no-evaluate")):
        done = world.appliance("a", *command)
        assert done.code == 3
        assert f"shrank from {size} to {left} entries" in done.err
        assert "audit accept" in done.err


def test_an_old_database_that_went_on_is_another_history(world: World) -> None:
    for hospital in ("c", "d", "e"):
        world.invite(hospital)
    done = world.appliance("a", "audit", "verify", "--json")
    assert done.code == 3
    error = json.loads(done.err.splitlines()[-1])
    assert error["error"] == "audit"
    assert "are not those that were signed before" in error["message"]
    assert '"aggregation"' in error["message"]
    kept = list((world.home("a") / "audit").glob("contradiction-*.json"))
    assert len(kept) == 2


def test_after_an_explanation_one_begins_anew(world: World) -> None:
    moved = world.must(world.appliance("a", "audit", "accept", "--json")).last["moved"]
    assert list(Path(moved).glob("contradiction-*.json"))
    # The record of the round is not in the log any more, and stays missing.
    done = world.appliance("a", "audit", "verify")
    assert done.code == 3
    assert "does not hold 1 of the 4" in done.err
    assert "record.json" in done.err
