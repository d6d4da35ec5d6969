"""Training with everything real but small: killed and continued, diverging, out of room."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.context import Context
from appliance.data.importing import import_files
from appliance.doctor import examine
from appliance.engine import MachineChoices
from appliance.events import Event, Note, Phase
from appliance.local import LocalSettings, train_local
from backends.base import EvalStep, Resumed, TrainStep
from federation.errors import BackendError, DataError, LossNotFinite, ModelError
from tests.tiny import build_tiny_model
from tests.tiny_training import FACTS, RECIPE, conversation

pytestmark = pytest.mark.timeout(300)
"""One test starts a process that imports torch, which takes long on a busy machine."""

SETTINGS = LocalSettings(
    recipe=RECIPE.model_copy(update={"steps": 6, "dropout": 0.2, "eval_every": 2})
)

_DIES = """
import os, signal, sys
from pathlib import Path
from appliance.context import Context
from appliance.local import train_local
from backends.base import TrainStep
from tests.unit.appliance.test_training import SETTINGS

def watch(event):
    if isinstance(event, TrainStep) and event.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

train_local(Context.open(Path(sys.argv[1])), SETTINGS, watch)
"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("FEDMED_ENGINE_THREADS", "1")
    monkeypatch.setenv("FEDMED_ENGINE_CHECKPOINT_SECONDS", "0")
    build_tiny_model(tmp_path / "models" / "tiny")


def hospital(home: Path) -> Context:
    home.mkdir()
    records = home / "records.jsonl"
    lines = (json.dumps({"messages": conversation(name)}) for name in FACTS)
    records.write_text("\n".join(lines), encoding="utf-8")
    import_files([records], home / "data", 30)
    return Context.open(home)


def logged(home: Path) -> list[tuple[str, int]]:
    lines = (home / "local" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["event"], r["step"]) for r in records if r["event"] in ("TrainStep", "HeldOut")]


def test_killed_and_started_again_is_as_if_it_never_stopped(tmp_path: Path) -> None:
    whole = hospital(tmp_path / "whole")
    expected = train_local(whole, SETTINGS, lambda _: None)
    cut = hospital(tmp_path / "cut")
    died = subprocess.run(
        [sys.executable, "-c", _DIES, cut.paths.home],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    seen: list[Event] = []
    done = train_local(cut, SETTINGS, seen.append)
    (resumed,) = (event for event in seen if isinstance(event, Resumed))
    assert (resumed.step, resumed.of) == (3, 6)
    assert [event.step for event in seen if isinstance(event, TrainStep)] == [4, 5, 6]
    assert done.adapter_sha256 == expected.adapter_sha256
    assert (done.train_loss, done.loss_after) == (expected.train_loss, expected.loss_after)
    # Each step once in the record, those of the first process too.
    steps = [("TrainStep", n) for n in range(1, 7)]
    assert [entry for entry in logged(cut.paths.home) if entry[0] == "TrainStep"] == steps
    assert not (cut.paths.home / ".local").exists()
    assert not list(cut.paths.home.rglob("checkpoints"))


def test_stopped_by_a_person_loses_no_step(tmp_path: Path) -> None:
    context = hospital(tmp_path / "home")

    def stop(event: Event) -> None:
        if isinstance(event, TrainStep) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_local(context, SETTINGS, stop)
    seen: list[Event] = []
    train_local(context, SETTINGS, seen.append)
    assert [event.step for event in seen if isinstance(event, Resumed)] == [2]
    with pytest.raises(KeyboardInterrupt):
        train_local(context, SETTINGS, stop)
    seen.clear()
    other = LocalSettings(recipe=SETTINGS.recipe.model_copy(update={"learning_rate": 5e-3}))
    train_local(context, other, seen.append)
    assert not any(isinstance(event, Resumed) for event in seen)
    notes = [event.text for event in seen if isinstance(event, Note)]
    assert any("belongs to another training: recipe changed" in text for text in notes)


def poison(base: Path, token: int) -> None:
    """Make one row of the embedding NaN, as a bad disk or a flipped bit may."""
    weights = base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    start, end = header["model.embed_tokens.weight"]["data_offsets"]
    rows = header["model.embed_tokens.weight"]["shape"][0]
    width = (end - start) // rows
    at = 8 + length + start + token * width
    data[at : at + width] = struct.pack("<f", float("nan")) * (width // 4)
    weights.write_bytes(data)


def test_a_loss_that_becomes_nan_names_the_records_and_keeps_the_checkpoint(
    tmp_path: Path,
) -> None:
    from backends.tokens import ChatTokenizer

    context = hospital(tmp_path / "home")
    base = tmp_path / "models" / "tiny"
    lines = (context.paths.data / "train.jsonl").read_text().splitlines()
    tokenizer = ChatTokenizer(base)
    tokens = [
        set(tokenizer.encode(json.loads(line)["messages"], max_length=512).tokens) for line in lines
    ]
    held_out = [
        token
        for line in (context.paths.data / "held_out.jsonl").read_text().splitlines()
        for token in tokenizer.encode(json.loads(line)["messages"], max_length=512).tokens
    ]
    # A token of one record only.
    bad = next(
        (number, token)
        for number, own in enumerate(tokens, 1)
        for token in sorted(own - set(held_out))
        if sum(token in other for other in tokens) == 1
    )
    poison(base, bad[1])
    one = LocalSettings(recipe=RECIPE.model_copy(update={"steps": 20, "batch_size": 1}))
    done: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, TrainStep):
            done.append(event.step)

    with pytest.raises(LossNotFinite, match="not finite in training step") as caught:
        train_local(context, one, watch)
    assert f"lines {bad[0]} of {context.paths.data / 'train.jsonl'}" in caught.value.hint
    assert "The same command goes on" in caught.value.hint
    assert done
    assert "last good checkpoint is kept" in str(caught.value)
    before = len(done)
    with pytest.raises(LossNotFinite):
        train_local(context, one, watch)
    # It went on from the checkpoint: no step was done twice.
    assert len(done) == before


def test_without_data_that_fits_the_error_says_so(tmp_path: Path) -> None:
    context = hospital(tmp_path / "home")
    short = LocalSettings(recipe=RECIPE.model_copy(update={"max_length": 16}))
    with pytest.raises(DataError, match=r"No train example .* no room in 16\.") as caught:
        train_local(context, short, lambda _: None)
    assert "Raise max_length" in caught.value.hint
    template = tmp_path / "models" / "tiny" / "chat_template.jinja"
    template.write_text("{{ raise_exception('no system turn') }}")
    with pytest.raises(DataError, match=r"No train example .* no system turn"):
        train_local(context, SETTINGS, lambda _: None)
    (context.paths.data / "train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"No train example .* used\.$"):
        train_local(context, SETTINGS, lambda _: None)


def test_without_a_chat_template_or_a_known_architecture_nothing_is_trained(
    tmp_path: Path,
) -> None:
    context = hospital(tmp_path / "home")
    base = tmp_path / "models" / "tiny"
    config = base / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"llama"', '"lhama"'))
    with pytest.raises(ModelError, match=r"'lhama', which transformers .* does not know") as caught:
        train_local(context, SETTINGS, lambda _: None)
    assert "another architecture" in caught.value.hint
    config.write_text(whole)
    (base / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        train_local(context, SETTINGS, lambda _: None)


def test_a_record_longer_than_the_context_is_named(tmp_path: Path) -> None:
    context = hospital(tmp_path / "home")
    config = tmp_path / "models" / "tiny" / "config.json"
    shorter = config.read_text().replace(
        '"max_position_embeddings": 1024', '"max_position_embeddings": 32'
    )
    config.write_text(shorter)
    seen: list[Event] = []
    with pytest.raises(DataError, match="reads at most 32") as caught:
        train_local(context, SETTINGS, seen.append)
    assert "max_length" in caught.value.hint
    # Before anything is loaded, so that a dry run and the doctor find it too.
    assert not any(isinstance(event, Phase) and event.name == "loading" for event in seen)
    (check,) = (c for c in examine(context) if c.name == "training memory")
    assert (check.verdict, check.remedy) == ("problem", caught.value.hint)


def test_records_that_cannot_be_used_are_counted_and_the_reason_is_said(tmp_path: Path) -> None:
    context = hospital(tmp_path / "home")
    file = context.paths.data / "train.jsonl"
    lines = file.read_text().splitlines()
    long = json.loads(lines[0])
    long["messages"][-2]["content"] *= 200
    file.write_text("\n".join([*lines, json.dumps(long)]) + "\n")
    seen: list[Event] = []
    train_local(context, SETTINGS, seen.append)
    notes = [event.text for event in seen if isinstance(event, Note)]
    (said,) = [note for note in notes if "left out" in note]
    assert said.startswith(f"1 of {len(lines) + 1} train records are left out, the last one: ")
    assert "no room" in said


def test_the_base_can_be_held_in_8_bits_and_the_plan_is_said(tmp_path: Path) -> None:
    context = hospital(tmp_path / "home")
    seen: list[Event] = []
    quantised = LocalSettings(recipe=RECIPE, choices=MachineChoices(bits=8))
    assert train_local(context, quantised, seen.append).quantisation == "int8"
    notes = [event.text for event in seen if isinstance(event, Note)]
    assert any(note.startswith("Plan: base held as int8, at most") for note in notes)
    assert any(isinstance(event, EvalStep) for event in seen)


def test_an_engine_without_8_bits_says_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from backends import choose

    context = hospital(tmp_path / "home")
    backend = choose(None)[0]
    only = dataclasses.replace(backend.probe(), quantisations=("none",))
    monkeypatch.setattr(type(backend), "probe", lambda _: only)
    quantised = LocalSettings(recipe=RECIPE, choices=MachineChoices(bits=8))
    with pytest.raises(BackendError, match="cannot hold a base in 8 bits") as caught:
        train_local(context, quantised, lambda _: None)
    assert "none" in caught.value.hint


def test_doctor_reckons_what_a_training_takes(tmp_path: Path) -> None:
    context = hospital(tmp_path / "home")
    (check,) = (c for c in examine(context) if c.name == "training memory")
    assert check.verdict == "ok", check
    assert "GB (weights" in check.detail
