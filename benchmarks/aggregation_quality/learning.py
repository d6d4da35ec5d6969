"""Trainings and evaluations of one task, each done once and kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backends.adapters import read_adapter, write_adapter
from backends.base import Example, LoadedModel, TrainJob
from backends.cuda import BACKEND
from benchmarks.aggregation_quality.attacks import flipped
from benchmarks.aggregation_quality.labels import first_token_losses
from benchmarks.aggregation_quality.tasks import N_REPORT, HospitalRecords, Record, Task, answered
from coordinator.aggregation import ValidatedLoss
from coordinator.validation import FOLDS, over_folds
from federation.adapter import AdapterSchema, Factors, initial_adapter
from federation.base_model import read_card
from federation.canonical import canonical_json, file_sha256, sha256
from federation.files import write_atomically
from federation.messages import Metric
from federation.recipe import VARIANCE_STEPS

POOLED = "pooled"

Part = Literal["train", "report"]


@dataclass(frozen=True)
class Trained:
    """An adapter file, and what its hospital would report."""

    adapter: Path
    n_examples: int
    metrics: Mapping[Metric, float]


def keep(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``path`` holds as JSON, made and written there when it is missing."""
    if not path.exists():
        write_atomically(path, json.dumps(make(), indent=1).encode() + b"\n")
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


class Learner:
    """One task's model in memory; ``cache`` keeps adapters and losses by what they depend on."""

    def __init__(self, task: Task, cache: Path) -> None:
        self.task = task
        self._cache = cache / task.name
        card = read_card(task.base)
        self.schema: AdapterSchema = card.adapter_schema(
            task.targets, rank=task.rank, alpha=task.alpha
        )
        self._base = card.sha256
        self._encoded: dict[tuple[object, ...], list[Example]] = {}

    @cached_property
    def _model(self) -> LoadedModel:
        return BACKEND.load(self.task.base, threads=1)

    def start(self, seed: int) -> Path:
        """The adapter that all hospitals start from."""
        return self.store(dict(initial_adapter(self.schema, seed)))

    def store(self, tensors: Mapping[str, np.ndarray]) -> Path:
        """Keep an adapter under its digest."""
        draft = self._cache / "adapters" / "draft.safetensors"
        draft.parent.mkdir(parents=True, exist_ok=True)
        write_adapter(draft, tensors)
        target = draft.with_name(f"{file_sha256(draft)}.safetensors")
        draft.replace(target)
        return target

    def read(self, adapter: Path) -> dict[str, np.ndarray]:
        """The tensors of an adapter."""
        return read_adapter(adapter, self.schema)

    def train(
        self, parent: Path, hospital: str, seed: int, number: int, factors: Factors, lies: bool
    ) -> Trained:
        """One hospital's part of round ``number``, or of all of them together: ``pooled``."""
        recipe = self.task.recipe.model_copy(update={"seed": seed})
        assert recipe.steps is not None
        if hospital == POOLED:
            recipe = recipe.model_copy(update={"steps": recipe.steps * self.task.pooled_times})
        key = self._key("train", recipe.model_dump(), parent.stem, hospital, number, factors, lies)

        def run() -> dict[str, Any]:
            train = self._examples(hospital, "train", lies, seed)
            own = self._examples(hospital, "report", lies, seed)
            assert recipe.steps is not None
            self._model.attach(parent, self.schema)
            loss_before = self._mean(own)
            job = TrainJob(train, recipe, factors, start_step=(number - 1) * recipe.steps)
            result = self._model.train(job, lambda event: None)
            losses = result.step_losses
            self._model.save_adapter(self._cache / "adapters" / "trained.safetensors")
            kept = self.store(self.read(self._cache / "adapters" / "trained.safetensors"))
            return {
                "adapter": kept.name,
                "n_examples": len(train),
                "metrics": {
                    "loss_before": loss_before,
                    "loss_after": self._mean(own),
                    "train_loss": statistics.fmean(losses),
                    "loss_variance": statistics.variance(losses[-VARIANCE_STEPS:]),
                },
                "seconds": result.seconds,
            }

        kept = keep(self._cache / "trainings" / f"{key}.json", run)
        adapter = self._cache / "adapters" / str(kept["adapter"])
        return Trained(adapter, int(kept["n_examples"]), kept["metrics"])

    def evaluate(self, adapter: Path | None, hospital: str) -> dict[str, Any]:
        """A hospital's held-out losses under an adapter; None is the base alone.

        ``loss`` is the mean in nats a completion token. Where the task has labels, it is that of
        the right label's first token, ``scores`` are log-odds of the first label and ``truth``
        whether it is right, by record.
        """
        key = self._key("evaluate", adapter.stem if adapter else "base", hospital)

        def run() -> dict[str, Any]:
            if adapter is None:
                self._model.detach()
            else:
                self._model.attach(adapter, self.schema)
            if self.task.labels is None:
                return {"loss": self._mean(self._held_out(hospital))}
            return self._label_scores(hospital, self.task.labels)

        return keep(self._cache / "evaluations" / f"{key}.json", run)

    def _label_scores(self, hospital: str, labels: tuple[str, str]) -> dict[str, Any]:
        records = self.task.hospitals[hospital].held_out
        truth = [r[-1]["content"] == labels[0] for r in records]
        asked = [self._encode([answered(r[:-1], label) for r in records]) for label in labels]
        yes, no = first_token_losses(self._model, *asked)
        right = [a if t else b for a, b, t in zip(yes, no, truth, strict=True)]
        scores = [b - a for a, b in zip(yes, no, strict=True)]
        return {"loss": statistics.fmean(right), "scores": scores, "truth": truth}

    def validate(self, adapter: Path) -> ValidatedLoss:
        """What the coordinator measures of an adapter, as the product does."""
        key = self._key("validate", FOLDS, adapter.stem)

        def run() -> dict[str, Any]:
            self._model.attach(adapter, self.schema)
            return asdict(over_folds(self._model.losses(self._encode(self.task.validation))))

        return ValidatedLoss(**keep(self._cache / "evaluations" / f"{key}.json", run))

    def _held_out(self, hospital: str) -> list[Example]:
        return self._encoded_once(("held-out", hospital), lambda: self._records(hospital).held_out)

    def _examples(self, hospital: str, part: Part, lies: bool, seed: int) -> list[Example]:
        """What a hospital trains on, or what it measures the losses on that it reports."""
        both = slice(N_REPORT, None) if part == "train" else slice(N_REPORT)

        def records() -> list[Record]:
            own = [r for name in self._names(hospital) for r in self._records(name).train[both]]
            own = own if part == "train" else own[:N_REPORT]
            return flipped(own, self.task.labels, seed) if lies else own

        return self._encoded_once((part, hospital, seed if lies else None), records)

    def _encoded_once(
        self, key: tuple[object, ...], records: Callable[[], Sequence[Record]]
    ) -> list[Example]:
        if key not in self._encoded:
            self._encoded[key] = self._encode(records())
        return self._encoded[key]

    def _names(self, hospital: str) -> Sequence[str]:
        return tuple(self.task.hospitals) if hospital == POOLED else (hospital,)

    def _records(self, hospital: str) -> HospitalRecords:
        return self.task.hospitals[hospital]

    def _encode(self, records: Sequence[Sequence[Any]]) -> list[Example]:
        length = self.task.recipe.max_length
        return [self._model.encode(list(r), max_length=length) for r in records]

    def _mean(self, examples: Sequence[Example]) -> float:
        losses = self._model.losses(examples)
        return sum(x.loss * x.n_tokens for x in losses) / sum(x.n_tokens for x in losses)

    @cached_property
    def digest(self) -> str:
        """Of all that trainings and evaluations of this task depend on."""
        data = {name: [h.train, h.held_out] for name, h in self.task.hospitals.items()}
        return sha256(
            canonical_json(
                [
                    self._base,
                    self.schema.model_dump(),
                    self.task.recipe.model_dump(),
                    data,
                    self.task.validation,
                    N_REPORT,
                ]
            )
        )

    def _key(self, *parts: object) -> str:
        return sha256(canonical_json([self.digest, *parts]))
