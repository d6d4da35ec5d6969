"""Training one adapter on this hospital's data: measure, train, measure, keep everything.

The same for a federated round and for local-only training; the two differ only in the parent
adapter, the factors and where in the data order they begin.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from appliance import adapters
from appliance.adapters import AdapterCard, StoredAdapter
from appliance.data import Split, load_split
from appliance.events import Event, Phase, Sink
from appliance.runlog import RunLog
from backends.base import (
    EvalStep,
    Example,
    ExampleLoss,
    LoadedModel,
    Resumed,
    TrainJob,
    TrainResult,
    TrainStep,
)
from federation.adapter import AdapterSchema, Factors
from federation.canonical import Message, Sha256, file_sha256
from federation.errors import BackendError, DataError
from federation.files import write_atomically
from federation.messages import BaseReference
from federation.recipe import TrainingRecipe

METADATA = "training_metadata.json"


@dataclass(frozen=True)
class TrainingPlan:
    """What to train and where it goes.

    ``parent`` is the safetensors file that training starts from; ``folder`` gets ``adapter/``,
    ``training_metadata.json``, ``metrics.jsonl`` and ``tensorboard/``.
    """

    base: BaseReference
    schema: AdapterSchema
    recipe: TrainingRecipe
    factors: Factors
    parent: Path
    start_step: int
    folder: Path
    adapter_folder: Path
    origin: str


class TrainingMetadata(Message):
    """What a finished training did; losses are means in nats a completion token."""

    origin: str
    base: BaseReference
    adapter_sha256: Sha256
    parent_sha256: Sha256
    recipe: TrainingRecipe
    factors: Factors
    n_train: int
    n_held_out: int
    loss_before: float
    loss_after: float
    train_loss: float
    steps: int
    n_tokens: int
    seconds: float
    peak_memory_bytes: int
    engine: str
    quantisation: str
    started_at: float
    finished_at: float


@dataclass(frozen=True)
class HospitalData:
    """Encoded training and held-out examples of this hospital."""

    train: Sequence[Example]
    held_out: Sequence[Example]


def load_data(model: LoadedModel, folder: Path, recipe: TrainingRecipe) -> HospitalData:
    """Encode the imported data by the model's chat template; held-out cut to the round's number.

    Examples whose prompt alone is too long are left out. Raises DataError when nothing is left.
    """

    return HospitalData(
        train=_encode(model, folder, "train", recipe.max_length, None),
        held_out=load_held_out(model, folder, recipe),
    )


def load_held_out(model: LoadedModel, folder: Path, recipe: TrainingRecipe) -> list[Example]:
    """The held-out examples of ``load_data`` alone. Raises DataError when there is none."""
    return _encode(model, folder, "held_out", recipe.max_length, recipe.eval_examples)


def _encode(
    model: LoadedModel, folder: Path, split: Split, max_length: int, limit: int | None
) -> list[Example]:
    examples: list[Example] = []
    for messages in load_split(folder, split):
        with suppress(DataError):
            examples.append(model.encode(messages, max_length=max_length))
        if len(examples) == limit:
            break
    if not examples:
        raise DataError(
            f"No {split} example in {folder} has at most {max_length} tokens.",
            hint="Import more data; `appliance data stats` shows what is there.",
        )
    return examples


def mean_loss(losses: Sequence[ExampleLoss]) -> float:
    """The mean over all completion tokens, in nats. Raises BackendError when it is not finite."""
    mean = sum(x.loss * x.n_tokens for x in losses) / sum(x.n_tokens for x in losses)
    if not math.isfinite(mean):
        raise BackendError(
            f"The loss on the held-out examples is {mean}.",
            hint="The adapter diverged or the base model is damaged: lower the learning rate, try "
            '[engine] quantisation = "none", verify the model (`appliance models list`).',
        )
    return mean


def train(
    model: LoadedModel, data: HospitalData, plan: TrainingPlan, sink: Sink
) -> tuple[StoredAdapter, TrainingMetadata]:
    """Train the plan's adapter and store it; the metadata is written last, so it means finished."""
    started = time.time()
    model.attach(plan.parent, plan.schema, dropout=plan.recipe.dropout)
    with RunLog(plan.folder) as log:
        step = 0

        def both(event: Event) -> None:
            nonlocal step
            if isinstance(event, TrainStep | Resumed):
                step = event.step
            elif isinstance(event, EvalStep) and event.done == event.of:
                log.held_out(step, event.loss)
            log(event)
            sink(event)

        sink(Phase("evaluating", "held-out examples before training"))
        before = mean_loss(model.losses(data.held_out, sink))
        log.held_out(0, before)
        sink(Phase("training", plan.origin))
        job = TrainJob(
            examples=data.train,
            recipe=plan.recipe,
            factors=plan.factors,
            start_step=plan.start_step,
            held_out=data.held_out,
        )
        result = model.train(job, both)
        sink(Phase("evaluating", "held-out examples after training"))
        after = mean_loss(model.losses(data.held_out, sink))
        log.held_out(result.steps, after)
    stored = _store(model, plan)
    metadata = _metadata(model, data, plan, result, (before, after), stored, started)
    write_atomically(plan.folder / METADATA, metadata.to_json())
    return stored, metadata


def _store(model: LoadedModel, plan: TrainingPlan) -> StoredAdapter:
    weights = plan.folder / ".trained.safetensors"
    model.save_adapter(weights)
    card = AdapterCard(
        base_name=plan.base.name,
        base_sha256=plan.base.sha256,
        adapter_schema=plan.schema,
        sha256=file_sha256(weights),
        origin=plan.origin,
    )

    def move(target: Path) -> None:
        weights.replace(target)

    return adapters.store(plan.adapter_folder, card, move)


def _metadata(
    model: LoadedModel,
    data: HospitalData,
    plan: TrainingPlan,
    result: TrainResult,
    losses: tuple[float, float],
    stored: StoredAdapter,
    started: float,
) -> TrainingMetadata:
    return TrainingMetadata(
        origin=plan.origin,
        base=plan.base,
        adapter_sha256=stored.card.sha256,
        parent_sha256=file_sha256(plan.parent),
        recipe=plan.recipe,
        factors=plan.factors,
        n_train=len(data.train),
        n_held_out=len(data.held_out),
        loss_before=losses[0],
        loss_after=losses[1],
        train_loss=sum(result.step_losses) / len(result.step_losses),
        steps=result.steps,
        n_tokens=result.n_tokens,
        seconds=result.seconds,
        peak_memory_bytes=result.peak_memory_bytes,
        engine=model.engine,
        quantisation=model.quantisation,
        started_at=started,
        finished_at=time.time(),
    )
