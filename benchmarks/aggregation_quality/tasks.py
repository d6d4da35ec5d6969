"""What is learned: a base model, and each hospital's training and held-out records."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.demo import hpo
from backends.base import ChatMessage
from benchmarks.aggregation_quality.heart import SYSTEM, heart_records
from benchmarks.aggregation_quality.small_model import small_model
from federation.recipe import TrainingRecipe

Record = tuple[ChatMessage, ...]
"""A conversation of one turn: perhaps a system prompt, a question, its answer."""

_N_VALIDATION = 4
"""Records of each specialty that the coordinator has."""

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


N_REPORT = 16
"""Records a hospital takes out of its training and measures the losses on that it reports."""


@dataclass(frozen=True)
class HospitalRecords:
    """One hospital's records; nobody trains on ``held_out``, and no weight depends on it."""

    train: Sequence[Record]
    held_out: Sequence[Record]


@dataclass(frozen=True)
class Task:
    """A base model and its hospitals. ``labels`` are the two answers of a yes-or-no question.

    ``pooled_times`` is how many times a hospital's steps the training on all records together has.
    ``validation`` is what the coordinator may measure updates on, none of it any hospital's.
    """

    name: str
    base: Path
    hospitals: Mapping[str, HospitalRecords]
    validation: Sequence[Record]
    recipe: TrainingRecipe
    rounds: int
    pooled_times: int
    targets: tuple[str, ...]
    rank: int = 8
    alpha: float = 16.0
    labels: tuple[str, str] | None = None


def record(question: str, answer: str, system: str | None = None) -> Record:
    """A conversation of one turn; without ``system`` the model's own prompt is used."""
    asked: Record = ({"role": "user", "content": question},)
    if system is not None:
        asked = ({"role": "system", "content": system}, *asked)
    return answered(asked, answer)


def answered(asked: Record, answer: str) -> Record:
    """The conversation with an answer."""
    return (*asked, {"role": "assistant", "content": answer})


def _read(path: Path) -> list[Record]:
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [record(line["question"], line["answer"]) for line in lines]


_SMALL_TRAIN = {
    "cardio-pulmonary": 240,
    "eye-ear-dental": 80,
    "neurology": 160,
    "orthopaedics": 480,
}
"""Records a hospital of the small tasks trains on: few and unequal, or there is nothing to gain
from others, and sample counts and equal weights are the same."""


def _questions(cache: Path, n_held_out: int) -> tuple[dict[str, HospitalRecords], list[Record]]:
    """By hospital, the same ``n_held_out`` test items in every run; others for the coordinator."""
    folder = cache / "hpo"
    if not (folder / "test").is_dir():
        hpo.build(folder)
    hospitals, validation = {}, []
    for name in sorted(hpo.HOSPITALS):
        train = _shuffled(name, _read(folder / name / "records.jsonl"))
        test = _shuffled(name, _read(folder / "test" / f"{name}.jsonl"))
        hospitals[name] = HospitalRecords(train, test[:n_held_out])
        validation += test[n_held_out : n_held_out + _N_VALIDATION]
    return hospitals, validation


def _shuffled(seed: str, records: Sequence[Record]) -> list[Record]:
    return random.Random(seed).sample(records, len(records))


def _halves(hospitals: Mapping[str, HospitalRecords]) -> dict[str, HospitalRecords]:
    """Each hospital as two: every other record."""
    return {
        f"{name}-{half + 1}": HospitalRecords(both.train[half::2], both.held_out[half::2])
        for name, both in hospitals.items()
        for half in (0, 1)
    }


def small(cache: Path, smollm: Path | None) -> Task:
    """Four hospitals of unequal size, a model that trains in seconds."""
    del smollm
    hospitals, validation = _questions(cache, 40)
    return Task(
        name="small-4",
        base=small_model(cache),
        hospitals={
            name: HospitalRecords(both.train[: _SMALL_TRAIN[name]], both.held_out)
            for name, both in hospitals.items()
        },
        validation=validation,
        recipe=TrainingRecipe(steps=16, batch_size=8, learning_rate=5e-3, max_length=96),
        rounds=3,
        pooled_times=4,
        targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    )


def small_eight(cache: Path, smollm: Path | None) -> Task:
    """The same records at eight hospitals, two of each specialty."""
    four = small(cache, smollm)
    return replace(four, name="small-8", hospitals=_halves(four.hospitals), pooled_times=8)


def questions(cache: Path, smollm: Path | None) -> Task:
    """The demonstration's question set by specialty, on SmolLM2."""
    hospitals, validation = _questions(cache, 25)
    return Task(
        name="questions",
        base=_required(smollm),
        hospitals=hospitals,
        validation=validation,
        recipe=TrainingRecipe(steps=12, batch_size=8, learning_rate=2e-3, max_length=128),
        rounds=1,
        pooled_times=2,
        targets=_ATTENTION,
    )


def heart(cache: Path, smollm: Path | None) -> Task:
    """The heart-disease records of four hospitals, on SmolLM2."""
    hospitals, validation = {}, []
    for name, lines in heart_records(cache).items():
        records = [record(line.findings, line.answer, SYSTEM) for line in lines]
        # The order is that of a hash: stratified by nothing, the same in every run.
        records.sort(key=lambda r: hashlib.sha256(r[1]["content"].encode()).digest())
        n_held_out = len(records) // 4
        used = n_held_out + _N_VALIDATION
        hospitals[name] = HospitalRecords(records[used:], records[:n_held_out])
        validation += records[n_held_out:used]
    return Task(
        name="heart",
        base=_required(smollm),
        hospitals=hospitals,
        validation=validation,
        recipe=TrainingRecipe(steps=20, batch_size=8, learning_rate=2e-3, max_length=128),
        rounds=2,
        pooled_times=2,
        targets=_ATTENTION,
        labels=("yes", "no"),
    )


def _required(smollm: Path | None) -> Path:
    if smollm is None:
        sys.exit("This task needs --smollm, the folder of SmolLM2-135M-Instruct.")
    return smollm


TASKS: Mapping[str, Callable[[Path, Path | None], Task]] = {
    "small-4": small,
    "small-8": small_eight,
    "questions": questions,
    "heart": heart,
}
