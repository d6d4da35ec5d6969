"""Rounds that nobody watches: planned once, followed by the hospitals, through a restart and a
rotation of keys. The tests of this module tell one story and run in their order."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from tests.e2e.world import PROGRAMS, World, finish

pytestmark = pytest.mark.timeout(300)


def test_a_plan_runs_through_a_restart_and_a_rotation(world: World) -> None:
    for hospital in ("a", "b"):
        world.join(hospital)
    opened = world.open_round("--rounds", "2", "--grace-minutes", "5")
    assert (opened["round"], opened["rounds"]) == (1, 2)
    refused = world.coordinator("round", "open")
    assert refused.code == 5
    assert "coordinator round cancel" in refused.err
    options = ("--rounds", "2", "--json")
    with world.following("a", *options) as a:
        time.sleep(2)
        world.stop()
        time.sleep(1)
        world.serve()
        rewrapped = world.must(world.coordinator("keys", "rotate-wrapping", "--json")).last
        assert rewrapped["rounds"] == [1]
        asked = world.must(world.appliance("a", "keys", "rotate", "--json")).last
        assert asked["status"] == "waiting"
        seen = ("--fingerprint", asked["new_fingerprint"])
        approved = world.must(world.coordinator("approve", "a", *seen, "--json")).last
        assert approved["replaces"] == asked["fingerprint"]
        # Only now, so that the second round opens with the new keys in its roster: until one names
        # them the keys before are kept.
        with world.following("b", *options) as b:
            for process in (a, b):
                lines = finish(process)
                assert lines[-1] == {"ended": "complete", "rounds": [1, 2]}
                assert [x["receipt"]["accepted"] for x in lines if "receipt" in x] == [True, True]
    plan = world.must(world.coordinator("round", "plan", "--json")).last["plan"]
    assert (plan["published"], plan["ended"]) == (2, "all 2 rounds are published")
    shown = world.must(world.appliance("a", "keys", "show", "--json")).last["keys"]
    assert [k["fingerprint"] for k in shown] == [asked["new_fingerprint"]]
    status = world.appliance("b", "status", "--json").last
    assert status["global_rounds"] == [1, 2]


def test_following_ends_when_it_is_told_to(world: World) -> None:
    for told in (signal.SIGTERM, signal.SIGINT):
        with world.following("b", "--json") as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "Waiting for the next round" in line:
                    break
            process.send_signal(told)
            assert finish(process)[-1] == {"ended": "stopped", "rounds": []}


def test_watching_shows_each_change_until_interrupted(world: World) -> None:
    watch = ("status", "--watch", "--json")
    process = subprocess.Popen(
        [*(PROGRAMS / "coordinator", "--home", world.root / "coordinator"), *watch],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["state"] == "published"
    world.open_round()
    open_ = json.loads(process.stdout.readline())
    assert open_["ahead"]["waits_for"] == ["a", "b"]
    world.must(world.coordinator("round", "extend", "--minutes", "30"))
    extended = json.loads(process.stdout.readline())
    assert extended["deadline"] == open_["deadline"] + 30 * 60
    world.must(world.coordinator("round", "close", "--abort"))
    assert json.loads(process.stdout.readline())["state"] == "aborted"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_a_passphrase_is_needed_once_it_is_set(world: World) -> None:
    done = world.appliance("b", "keys", "protect", "--json", FEDMED_NEW_PASSPHRASE="staple")
    assert world.must(done).last["passphrase"] is True
    refused = world.appliance("b", "status")
    assert refused.code == 3
    assert "FEDMED_PASSPHRASE" in refused.err
    world.must(world.appliance("b", "status", FEDMED_PASSPHRASE="staple"))
    removed = world.appliance("b", "keys", "protect", "--remove", FEDMED_PASSPHRASE="staple")
    world.must(removed)
    world.must(world.appliance("b", "status"))
