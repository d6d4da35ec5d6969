"""What is learned: a base model, and each hospital's training and held-out records."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.demo import hpo
from backends.base import ChatMessage
from benchmarks.aggregation_quality.heart import heart_records
from benchmarks.aggregation_quality.small_model import small_model
from federation.recipe import TrainingRecipe

Record = tuple[ChatMessage, ...]
"""A question and its answer."""


@dataclass(frozen=True)
class HospitalRecords:
    """One hospital's records; nobody trains on ``held_out``."""

    train: Sequence[Record]
    held_out: Sequence[Record]


@dataclass(frozen=True)
class Task:
    """A base model and its hospitals. ``labels`` are the two answers of a yes-or-no question."""

    name: str
    base: Path
    hospitals: Mapping[str, HospitalRecords]
    recipe: TrainingRecipe
    rounds: int
    targets: tuple[str, ...]
    rank: int = 8
    alpha: float = 16.0
    labels: tuple[str, str] | None = None


def record(question: str, answer: str) -> Record:
    """A conversation of one turn."""
    return ({"role": "user", "content": question}, {"role": "assistant", "content": answer})


def _read(path: Path) -> list[Record]:
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [record(line["question"], line["answer"]) for line in lines]


def _questions(cache: Path) -> dict[str, HospitalRecords]:
    folder = cache / "hpo"
    if not (folder / "test").is_dir():
        hpo.build(folder)
    return {
        name: HospitalRecords(
            _read(folder / name / "records.jsonl"), _read(folder / "test" / f"{name}.jsonl")
        )
        for name in hpo.HOSPITALS
    }


def _halves(hospitals: Mapping[str, HospitalRecords]) -> dict[str, HospitalRecords]:
    """Each hospital as two: every other record."""
    return {
        f"{name}-{half}": HospitalRecords(both.train[half::2], both.held_out[half::2])
        for name, both in hospitals.items()
        for half in (0, 1)
    }


def _sample(
    hospitals: Mapping[str, HospitalRecords], n_held_out: int
) -> dict[str, HospitalRecords]:
    """The same ``n_held_out`` held-out records of each hospital in every run."""
    return {
        name: HospitalRecords(
            both.train,
            random.Random(name).sample(list(both.held_out), min(n_held_out, len(both.held_out))),
        )
        for name, both in hospitals.items()
    }


def small(cache: Path, smollm: Path) -> Task:
    """Four hospitals, a model that trains in seconds."""
    del smollm
    return Task(
        name="small-4",
        base=small_model(cache),
        hospitals=_sample(_questions(cache), 60),
        recipe=TrainingRecipe(steps=24, batch_size=8, learning_rate=1e-2, max_length=128),
        rounds=3,
        targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    )


def small_eight(cache: Path, smollm: Path) -> Task:
    """Eight hospitals, the same model."""
    four = small(cache, smollm)
    return Task(
        name="small-8",
        base=four.base,
        hospitals=_sample(_halves(_questions(cache)), 30),
        recipe=four.recipe,
        rounds=four.rounds,
        targets=four.targets,
    )


def questions(cache: Path, smollm: Path) -> Task:
    """The demonstration's question set by specialty, on SmolLM2."""
    return Task(
        name="questions",
        base=smollm,
        hospitals=_sample(_questions(cache), 25),
        recipe=TrainingRecipe(steps=24, batch_size=8, learning_rate=2e-3, max_length=256),
        rounds=1,
        targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    )


def heart(cache: Path, smollm: Path) -> Task:
    """The heart-disease records of four hospitals, on SmolLM2."""
    hospitals = {}
    for name, lines in heart_records(cache).items():
        records = [record(line.question, line.answer) for line in lines]
        records.sort(key=lambda r: hashlib.sha256(r[0]["content"].encode()).digest())
        # A fifth, stratified by nothing: the order is that of a hash.
        n_held_out = min(30, len(records) // 5)
        hospitals[name] = HospitalRecords(records[n_held_out:], records[:n_held_out])
    return Task(
        name="heart",
        base=smollm,
        hospitals=hospitals,
        recipe=TrainingRecipe(steps=16, batch_size=8, learning_rate=2e-3, max_length=256),
        rounds=1,
        targets=("q_proj", "k_proj", "v_proj", "o_proj"),
        labels=("yes", "no"),
    )


TASKS: Mapping[str, Callable[[Path, Path], Task]] = {
    "small-4": small,
    "small-8": small_eight,
    "questions": questions,
    "heart": heart,
}
