"""The coordinator's own losses: measured by an engine in its own process, or said why not."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from backends import discover
from backends.base import ExampleLoss
from coordinator import validating
from coordinator.aggregation import ValidatedLoss
from coordinator.config import RoundSection, ValidationSection
from coordinator.opening import open_round
from coordinator.review import find
from coordinator.rounds import State
from coordinator.validation import FOR_FOLDS, WORST, over_folds
from federation.base_model import read_card
from federation.canonical import canonical_json, file_sha256, sha256
from tests.tiny import tiny_model
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World

LINES = [
    {"question": f"What is {finding}?", "answer": answer}
    for finding, answer in (
        ("bradycardia", "A slow heart rate."),
        ("anaemia", "Too little haemoglobin in the blood."),
        ("dyspnoea", "Shortness of breath."),
        ("ptosis", "A drooping upper eyelid."),
        ("ataxia", "A lack of coordination of movements, as of walking or of speech."),
        ("scoliosis", "A sideways curve of the spine."),
        ("tachypnoea", "Fast breathing."),
        ("myopia", "Near-sightedness."),
        ("aphasia", "A loss of language after an injury of the brain."),
        ("kyphosis", "A forward curve of the upper spine, beyond what is usual."),
        ("syncope", "Fainting."),
    )
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


def open_on_tiny(
    world: World,
    n: int,
    aggregator: str = "fedavg",
    lies: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
) -> list[Hospital]:
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
        header = {"metrics": {"loss_after": 1.5, "loss_variance": 0.1}, "n_examples": 100}
        header |= lies.get(hospital.name, {})
        assert hospital.upload(hospital.seal(1, header=header)).accepted
    return hospitals


def test_each_hospitals_own_model_is_measured_and_weighed_by_that(world: World, data: Path) -> None:
    world = with_set(world, data=str(data))
    lie = {"metrics": {"loss_after": 0.01, "loss_variance": 1e-6}, "n_examples": 100_000}
    h01, *_ = open_on_tiny(world, 3, "agentic", {"h03": lie})
    # The coordinator was killed after it had measured one of them.
    row = world.coordinator.store.rounds.get(1)
    assert row is not None
    digest = validating._set_digest(world.coordinator.validation, row)
    keep = world.coordinator.store.reviews.keep_loss
    keep(find(world.coordinator, "h02").upload_id, digest, ValidatedLoss(99.5, 50.0))
    # Another was measured by a version that knew no folds.
    before = [file_sha256(data), read_card(tiny_model()).sha256, 200, 512]
    third = find(world.coordinator, "h03").upload_id
    keep(third, sha256(canonical_json(before)), ValidatedLoss(99.5, None))
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert (record.losses, record.validation) == (
        "validated",
        "validated on 11 examples of validation.jsonl",
    )
    found = {c.hospital: (c.validated_loss, c.validated_variance) for c in record.contributions}
    assert found["h02"] == (99.5, 50.0), "it is not measured a second time"
    assert "loss worse than the median, unsteady over folds" in record.contributions[1].explanation
    assert find(world.coordinator, "h01", 1).reported_loss == 1.5
    for hospital in "h01", "h03":
        assert found[hospital] == pytest.approx(by_hand(world, hospital), rel=1e-4)
    assert found["h01"] != found["h03"]
    first, _, lying = record.contributions
    assert (lying.n_examples, lying.metrics["loss_after"]) == (100_000, 0.01)
    assert lying.weight == pytest.approx(first.weight, rel=0.3), "its word is not heard"
    assert not list(world.paths.adapters.glob(".new-*")), "no hospital's model stays on the disk"


def by_hand(world: World, hospital: str) -> tuple[float, float]:
    """Loss of the file that the hospital sealed, and variance over what is 5 examples apart."""
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
    losses = [(x.loss * x.n_tokens, x.n_tokens) for x in model.losses(examples)]
    folds: dict[int, list[tuple[float, int]]] = {}
    for index, one in enumerate(losses):
        folds.setdefault(index % 5, []).append(one)
    loss, *of_folds = (
        sum(total for total, _ in part) / sum(n for _, n in part)
        for part in (losses, *folds.values())
    )
    mean = sum(of_folds) / 5
    return loss, sum((x - mean) ** 2 for x in of_folds) / 4


def test_a_set_too_small_for_folds_is_said_and_only_losses_count(world: World, data: Path) -> None:
    world = with_set(world, data=str(data), examples=FOR_FOLDS - 1)
    h01, *_ = open_on_tiny(world, 2, "agentic")
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert (record.losses, record.validation) == (
        "validated",
        "validated on 9 examples of validation.jsonl; "
        "folds need 10, so that nobody's steadiness counts",
    )
    for one in record.contributions:
        assert one.validated_loss is not None
        assert one.validated_variance is None
        assert "steady" not in one.explanation


def test_folds_are_dealt_by_place_and_weighted_by_tokens() -> None:
    ten = [ExampleLoss(float(i), 1) for i in range(10)]
    # Folds of i and i + 5: 2.5, 3.5, ..., 6.5.
    assert over_folds(ten) == ValidatedLoss(4.5, 2.5)
    longer = [*ten[:9], ExampleLoss(9.0, 4)]
    # The last fold is (4 + 4 * 9) / 5 = 8.
    assert over_folds(longer) == ValidatedLoss(
        72 / 13, statistics.variance([2.5, 3.5, 4.5, 5.5, 8])
    )
    assert over_folds(ten[:9]) == ValidatedLoss(4.0, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e9])
def test_a_model_that_diverged_is_neither_good_nor_steady(bad: float) -> None:
    diverged = ValidatedLoss(WORST, WORST)
    assert over_folds([ExampleLoss(bad, 1)] * 10) == diverged
    assert over_folds([ExampleLoss(2.0, 1)] * 9 + [ExampleLoss(bad, 1)]) == diverged


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
