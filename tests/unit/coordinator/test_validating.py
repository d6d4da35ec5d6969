"""The coordinator's own losses: measured by an engine in its own process, or said why not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends import discover
from coordinator import validating
from coordinator.config import RoundSection, ValidationSection
from coordinator.opening import open_round
from coordinator.review import find
from coordinator.rounds import State
from tests.tiny import tiny_model
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World

LINES = [
    {"question": "What is bradycardia?", "answer": "A slow heart rate."},
    {"question": "What is anaemia?", "answer": "Too little haemoglobin in the blood."},
]


@pytest.fixture
def data(folder: Path) -> Path:
    path = folder / "validation.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    return path


def with_set(world: World, **section: Any) -> World:  # noqa: ANN401
    """The same federation with a validation set."""
    settings = ValidationSection(**{"base": str(tiny_model()), "minutes": 10, **section})
    return replace(world, coordinator=replace(world.coordinator, validation=settings))


def open_on_tiny(world: World, n: int, aggregator: str = "fedavg") -> list[Hospital]:
    """Hospitals that have delivered in a round of that aggregator, on a model that exists."""
    hospitals = [world.member(f"h{i:02d}") for i in range(1, n + 1)]
    section = RoundSection(
        aggregator=aggregator,
        target_modules=("q_proj", "v_proj"),
        rank=2,
        alpha=4.0,
        codec="fp32",
    )
    open_round(world.coordinator, section, base=tiny_model())
    for hospital in hospitals:
        metrics = {"loss_after": 1.5, "loss_variance": 0.1}
        assert hospital.upload(hospital.seal(1, header={"metrics": metrics})).accepted
    return hospitals


def test_each_hospitals_own_model_is_measured_and_weighed_by_that(world: World, data: Path) -> None:
    world = with_set(world, data=str(data))
    h01, *_ = open_on_tiny(world, 3, "agentic")
    # The coordinator was killed after it had measured one of them.
    row = world.coordinator.store.rounds.get(1)
    assert row is not None
    digest = validating._set_digest(world.coordinator.validation, row)
    second = find(world.coordinator, "h02").upload_id
    world.coordinator.store.reviews.keep_loss(second, digest, 99.5)
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert (record.losses, record.validation) == (
        "validated",
        "validated on 2 examples of validation.jsonl",
    )
    losses = {c.hospital: c.validated_loss for c in record.contributions}
    assert losses["h02"] == 99.5, "it is not measured a second time"
    assert "validated loss worse than the median" in record.contributions[1].explanation
    assert find(world.coordinator, "h01", 1).reported_loss == 1.5
    for hospital in "h01", "h03":
        assert losses[hospital] == pytest.approx(by_hand(world, hospital), rel=1e-5)
    assert losses["h01"] != losses["h03"]
    assert not list(world.paths.adapters.glob(".new-*")), "no hospital's model stays on the disk"


def by_hand(world: World, hospital: str) -> float:
    """The loss of the file that the hospital sealed."""
    row = world.coordinator.store.rounds.get(1)
    assert row is not None
    model = discover()["cuda"].load(tiny_model(), threads=1)
    model.attach(world.paths.home.parent / f"{hospital}.safetensors", row.descriptor.adapter_schema)
    examples = [
        model.encode(
            [
                {"role": "user", "content": line["question"]},
                {"role": "assistant", "content": line["answer"]},
            ],
            max_length=512,
        )
        for line in LINES
    ]
    losses = model.losses(examples)
    return sum(x.loss * x.n_tokens for x in losses) / sum(x.n_tokens for x in losses)


def test_an_engine_that_is_silent_is_ended_and_the_reported_losses_hold(
    world: World, data: Path
) -> None:
    world = with_set(world, data=str(data), minutes=0.001)
    (h01,) = open_on_tiny(world, 1)
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert record.losses == "reported"
    assert "The engine did not answer for 0.001 min" in record.validation


def test_what_the_engine_says_is_wrong_reaches_the_record(
    world: World, data: Path, folder: Path
) -> None:
    base = folder / "weightless"
    base.mkdir()
    for name in ("fedmed-base.json", "config.json"):
        (base / name).write_bytes((tiny_model() / name).read_bytes())
    open_on_tiny(world, 1)
    world = with_set(world, data=str(data), base=str(base))
    assert world.advance(1).state is State.PUBLISHED
    ((_, fields),) = [e for e in world.events if e[0] == "not_validated"]
    assert "weightless" in str(fields["reason"])
    assert fields["hint"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "The validation set absent.jsonl cannot be read: No such file or directory."),
        ("", "The validation set absent.jsonl is empty."),
        ('{"question": "What?"}\n', "The validation set absent.jsonl, line 1: answer"),
        ("\n\nno json", "The validation set absent.jsonl, line 3:"),
    ],
)
def test_a_set_that_cannot_be_read_is_named_and_stops_nothing(
    world: World, folder: Path, content: str | None, said: str
) -> None:
    path = folder / "absent.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    world = with_set(world, data=str(path))
    (h01,) = open_on_tiny(world, 1)
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert record.losses == "reported"
    assert record.validation.startswith(f"not validated, so that the reported losses hold: {said}")
    ((_, fields),) = [e for e in world.events if e[0] == "not_validated"]
    assert "[validation] data" in str(fields["hint"])


def test_another_base_model_than_the_rounds_is_named(world: World, data: Path) -> None:
    h01 = world.member("h01")
    world.open()
    assert h01.upload(h01.seal(1)).accepted
    world = with_set(world, data=str(data))
    assert world.advance(1).state is State.PUBLISHED
    assert "the round's is tiny." in h01.record(1).validation


def test_no_base_model_is_named(world: World, data: Path) -> None:
    world = with_set(world, data=str(data), base="")
    (h01,) = open_on_tiny(world, 1)
    assert world.advance(1).state is State.PUBLISHED
    assert "There is no base model to validate with" in h01.record(1).validation
