"""Two hospitals and a coordinator, by their commands, from nothing to a shared adapter.

The tests of this module tell one story and run in their order.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.e2e.world import PROGRAMS, World

pytestmark = pytest.mark.timeout(300)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "adapter_model.safetensors")


def test_an_appliance_that_is_not_enrolled_says_what_to_do(world: World) -> None:
    done = world.appliance("a", "status")
    assert done.code == 3
    assert "not enrolled" in done.err
    assert "appliance enrol INVITE" in done.err


def test_a_wrong_invite_is_refused_by_field(world: World, tmp_path: Path) -> None:
    invite = world.invite("a")
    content = json.loads(invite.read_text())
    wrong = tmp_path / "wrong.json"
    for change, named in (
        ({"token": "short"}, "token"),
        ({"url": "http://127.0.0.1"}, "url"),
        ({"surprise": 1}, "surprise"),
    ):
        wrong.write_text(json.dumps({**content, **change}))
        done = world.appliance("a", "enrol", str(wrong))
        assert done.code == 3
        assert named in done.err
    assert world.appliance("a", "enrol", str(tmp_path / "none.json")).code == 3
    assert not (world.home("a") / "enrolment.json").exists()


def test_an_expired_invite_is_refused(world: World, tmp_path: Path) -> None:
    content = json.loads(world.invite("a").read_text())
    old = tmp_path / "old.json"
    old.write_text(json.dumps({**content, "expires": 1}))
    done = world.appliance("a", "enrol", str(old))
    assert done.code == 3
    assert "expired" in done.err


def test_a_token_that_was_never_given_is_refused(world: World, tmp_path: Path) -> None:
    content = json.loads(world.invite("a").read_text())
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps({**content, "token": "A" * 43}))
    done = world.appliance("a", "enrol", str(forged))
    assert done.code == 3
    assert not (world.home("a") / "enrolment.json").exists()


def test_another_certificate_authority_is_refused(world: World, tmp_path: Path) -> None:
    other = World(tmp_path)
    other.must(other.coordinator("init", "--federation", "other"))
    content = json.loads(world.invite("a").read_text())
    foreign = json.loads(other.invite("a").read_text())
    mixed = tmp_path / "mixed.json"
    mixed.write_text(json.dumps({**content, "ca_certificate": foreign["ca_certificate"]}))
    done = world.appliance("a", "enrol", str(mixed))
    assert done.code == 7
    assert "certificate" in done.err


def test_no_coordinator_is_said(world: World, tmp_path: Path) -> None:
    content = json.loads(world.invite("a").read_text())
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = tmp_path / "nowhere.json"
        url = f"https://127.0.0.1:{unused.getsockname()[1]}"
        nowhere.write_text(json.dumps({**content, "url": url}))
        done = world.appliance("a", "enrol", str(nowhere))
    assert done.code == 7
    assert "No answer from the coordinator" in done.err


def test_a_hospital_waits_for_approval(world: World) -> None:
    answer = world.must(world.appliance("a", "enrol", str(world.invite("a")), "--json")).last
    status = world.appliance("a", "status", "--json")
    assert status.code == 3
    assert "approv" in status.last["coordinator"]
    wrong = world.coordinator("approve", "a", "--fingerprint", "AAAA-AAAA-AAAA-AAAA-AAAA")
    assert wrong.code == 3
    world.must(world.coordinator("approve", "a", "--fingerprint", answer["fingerprint"]))
    assert world.must(world.appliance("a", "status", "--json")).last["round_state"] == "none"


def test_training_before_there_is_data_or_a_round(world: World) -> None:
    done = world.appliance("a", "train", "--round", "1")
    assert done.code == 5
    assert "1" in done.err
    world.open_round()
    done = world.appliance("a", "train", "--round", "1")
    assert done.code == 2
    assert "appliance data import" in done.err
    world.must(world.coordinator("round", "close", "--abort"))


def test_malformed_data_are_reported_by_line(world: World, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "q"}\nnot json\n')
    done = world.appliance("a", "data", "import", str(bad))
    assert done.code == 2
    assert "bad.jsonl" in done.err
    assert not (world.home("a") / "data" / "train.jsonl").exists()


def test_a_round_from_end_to_end(world: World) -> None:
    world.join("b")
    file = world.root / "a.jsonl"
    file.write_text((world.root / "b.jsonl").read_text().replace("at b", "at a"))
    world.must(world.appliance("a", "data", "import", str(file)))
    # A mean of what was sent exactly: what is published can be told from what was trained.
    number = world.open_round("--aggregator", "fedavg", "--codec", "fp32")["round"]
    before = {p for p in world.home("a").rglob("*") if p.is_file()}
    dry = world.must(world.appliance("a", "train", "--round", str(number), "--dry-run", "--json"))
    assert dry.last["steps"] == 4
    assert 0 < dry.last["memory_needed"] < dry.last["memory_free"]
    assert dry.last["machine"]["quantisation"] == "none"
    new = {p.name for p in world.home("a").rglob("*") if p.is_file()} - {p.name for p in before}
    assert new <= {
        "descriptor.json",
        "roster.json",
        "newest-roster.json",
        "traffic.json",
        "traffic.lock",
    }
    for hospital in ("a", "b"):
        done = world.must(world.appliance(hospital, "train", "--round", str(number), "--json"))
        assert done.last["receipt"]["accepted"] is True
        events = {json.loads(line).get("event") for line in done.out.splitlines()}
        assert {"Phase", "TrainStep", "EvalStep", "Transfer"} <= events
    world.await_published("a", number)
    world.must(world.appliance("a", "sync"))
    folder = world.home("a") / "rounds" / f"{number:04d}"
    own = {h: weights(world.home(h) / "rounds" / folder.name / "adapter") for h in ("a", "b")}
    n = {
        h: json.loads(
            (world.home(h) / "rounds" / folder.name / "training_metadata.json").read_text()
        )["n_train"]
        for h in ("a", "b")
    }
    published = weights(world.home("a") / "adapters" / "global" / folder.name)
    for name, tensor in published.items():
        mean = (own["a"][name] * n["a"] + own["b"][name] * n["b"]) / (n["a"] + n["b"])
        np.testing.assert_allclose(tensor, mean, rtol=1e-6, atol=1e-8)
    assert list(folder.glob("tensorboard/events.*"))
    assert (folder / "metrics.jsonl").read_text().count("TrainStep") == 4


def test_the_same_command_again_trains_nothing_and_sends_nothing(world: World) -> None:
    number = world.appliance("a", "status", "--json").last["round"]
    again = world.must(world.appliance("a", "train", "--round", str(number), "--json"))
    events = [json.loads(line) for line in again.out.splitlines()]
    assert not [e for e in events if e.get("event") in ("TrainStep", "Transfer")]
    assert again.last["receipt"]["accepted"] is True


def test_the_global_adapter_answers(world: World) -> None:
    answers = {}
    for choice in ("base", "global"):
        done = world.must(
            world.appliance(
                "a", "ask", "--adapter", choice, "--max-tokens", "12", "--json", "Heart?"
            )
        )
        assert "medical advice" in done.last["disclaimer"]
        answers[choice] = done.last["confidence"]
    assert answers["base"] != answers["global"]
    missing = world.appliance("a", "ask", "--adapter", "local", "Heart?")
    assert missing.code == 2
    assert "train --local" in missing.err


def test_a_second_question_loads_nothing(world: World) -> None:
    talk = "What is a heart?\n/adapter global\nAnd a lung?\n/new\nAnd a kidney?\n/quit\n"
    done = world.must(world.appliance("a", "chat", "--max-tokens", "8", "--json", text=talk))
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [a["event"] for a in answers].count("Finished") == 3
    assert done.err.count("loading") == 1
    assert "Answers now come from: global" in done.err


def test_a_policy_that_forbids_it_stops_the_round_by_rule(world: World) -> None:
    number = world.open_round()["round"]
    policy = world.home("a") / "policy.toml"
    default = policy.read_text()
    policy.write_text(default.replace("max_steps = 10000", "max_steps = 3"))
    done = world.appliance("a", "train", "--round", str(number))
    assert done.code == 4
    assert "max_steps is 3, the round wants 4" in done.err
    assert str(policy) in done.err
    policy.write_text(re.sub(r"(?m)^metrics = .*$", "metrics = []", default))
    world.must(world.appliance("a", "train", "--round", str(number)))
    world.must(world.appliance("b", "train", "--round", str(number)))
    world.await_published("a", number)
    world.must(world.appliance("a", "sync", "--no-evaluate"))
    folder = world.home("a") / "rounds" / f"{number:04d}"
    record = json.loads(json.loads((folder / "record.json").read_text())["body"])
    metrics = {c["hospital"]: c["metrics"] for c in record["contributions"]}
    assert metrics["a"] == {}
    assert set(metrics["b"]) == {"loss_before", "loss_after", "train_loss", "loss_variance"}
    policy.write_text(default)


def test_a_base_model_that_differs_is_refused(world: World) -> None:
    from tests.tiny import build_tiny_model

    number = world.open_round()["round"]
    shutil.rmtree(world.root / "models" / "tiny")
    build_tiny_model(world.root / "models" / "tiny", seed=1)
    done = world.appliance("a", "train", "--round", str(number))
    assert done.code == 2
    assert "digest" in done.err
    shutil.rmtree(world.root / "models" / "tiny")
    build_tiny_model(world.root / "models" / "tiny")
    world.must(world.coordinator("round", "close", "--abort"))
    late = world.appliance("a", "train", "--round", str(number))
    assert late.code == 5
    assert "aborted" in late.err


def test_a_revoked_hospital_is_refused_at_once(world: World) -> None:
    world.must(world.coordinator("revoke", "b"))
    done = world.appliance("b", "status", "--json")
    assert done.code == 3
    assert "revoked" in done.last["coordinator"]


def started(
    world: World, hospital: str, *arguments: str, **environment: str
) -> subprocess.Popen[str]:
    """An appliance command in the background, its JSON lines to be read."""
    return subprocess.Popen(
        [PROGRAMS / "appliance", "--home", world.home(hospital), *arguments, "--json"],
        env=world.environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], bool]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if wanted(json.loads(line)):
            return
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def test_a_killed_training_goes_on_from_its_checkpoint_and_is_counted_once(world: World) -> None:
    number = world.open_round("--steps", "400")["round"]
    often = {"FEDMED_ENGINE_CHECKPOINT_SECONDS": "0"}
    process = started(world, "a", "train", "--round", str(number), **often)
    read_until(process, lambda line: line.get("event") == "TrainStep" and line["step"] == 5)
    process.kill()
    process.wait()
    folder = world.home("a") / "rounds" / f"{number:04d}"
    assert not (folder / "training_metadata.json").exists()
    assert not (folder / "outbox").exists()
    done = world.must(world.appliance("a", "train", "--round", str(number), "--json"))
    events = [json.loads(line) for line in done.out.splitlines()]
    (resumed,) = (line for line in events if line.get("event") == "Resumed")
    assert 5 <= resumed["step"] < 400
    steps = [line["step"] for line in events if line.get("event") == "TrainStep"]
    assert steps == list(range(resumed["step"] + 1, 401))
    assert done.last["receipt"]["accepted"] is True
    assert not (folder / "checkpoints").exists()
    assert not list((world.home("a") / "adapters").glob(".adapter-*"))
    world.await_published("a", number)


def test_a_finished_training_is_delivered_when_the_coordinator_is_back(world: World) -> None:
    """The coordinator goes away while the hospital trains, and comes back a while later."""
    number = world.open_round("--steps", "100")["round"]
    process = started(world, "a", "train", "--round", str(number))
    read_until(process, lambda line: line.get("event") == "TrainStep")
    world.stop()
    read_until(process, lambda line: "Trying again" in line.get("text", ""))
    world.serve()
    receipt: dict[str, Any] = {}
    read_until(process, lambda line: bool(receipt.update(line.get("receipt", {})) or receipt))
    assert receipt["accepted"] is True
    assert process.wait(30) == 0
    world.await_published("a", number)


def test_a_download_that_was_cut_continues_and_a_damaged_one_is_noticed(world: World) -> None:
    done = world.must(world.appliance("a", "sync", "--no-evaluate", "--json")).last
    folder = Path(done["folder"])
    whole = (folder / "adapter_model.safetensors").read_bytes()
    partial = folder.parent / f".{done['adapter_sha256']}.part"
    for start, code in ((whole[:1000], 0), (b"x" * 1000, 7), (b"", 0)):
        shutil.rmtree(folder, ignore_errors=True)
        if start:
            partial.write_bytes(start)
        again = world.appliance("a", "sync", "--no-evaluate", "--json")
        assert again.code == code, again.err
        received = [json.loads(line) for line in again.out.splitlines() if "received" in line]
        if start:
            assert received[0]["done"] > 1000
            assert received[-1]["done"] == received[-1]["of"] == len(whole)
        if code:
            assert "damaged" in again.err
            assert not folder.exists()
        else:
            assert (folder / "adapter_model.safetensors").read_bytes() == whole
    assert not partial.exists()
