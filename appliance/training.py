"""Training one adapter on this hospital's data: measure, train, measure, keep everything.

The same for a federated round and for local-only training; the two differ only in the parent
adapter, the factors and where in the data order they begin.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance import adapters
from appliance.adapters import AdapterCard, StoredAdapter
from appliance.data import Split, load_split
from appliance.data.splits import split_path
from appliance.events import Event, Phase, Sink
from appliance.runlog import RunLog
from backends.base import (
    ChatMessage,
    CheckpointPlan,
    EvalStep,
    Example,
    ExampleLoss,
    ForwardPlan,
    LoadedModel,
    Note,
    Resumed,
    TrainJob,
    TrainResult,
    TrainStep,
)
from backends.checkpoints import remove_checkpoints
from federation.adapter import AdapterSchema, Factors
from federation.canonical import Message, Sha256, file_sha256
from federation.errors import BackendError, DataError, LossNotFinite
from federation.files import write_atomically
from federation.messages import BaseReference
from federation.recipe import VARIANCE_STEPS, TrainingRecipe

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
    forward: ForwardPlan
    checkpoint_seconds: float
    folder: Path
    adapter_folder: Path
    origin: str

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie until the training is finished."""
        return self.folder / "checkpoints"


class TrainingMetadata(Message):
    """What a finished training did; losses are means in nats a completion token.

    ``loss_variance`` is the sample variance of the last steps' losses; None after a single step.
    """

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
    loss_variance: float | None = None
    steps: int
    n_tokens: int
    seconds: float
    peak_memory_bytes: int
    engine: str
    quantisation: str
    started_at: float
    finished_at: float


class Encoder(Protocol):
    """What turns a conversation into tokens: a loaded model, or its tokenizer alone."""

    def encode(self, messages: Sequence[ChatMessage], *, max_length: int) -> Example:
        """See ``LoadedModel.encode``."""


@dataclass(frozen=True)
class HospitalData:
    """Encoded examples of this hospital; ``lines`` are those of train.jsonl, counted from 1."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    lines: Sequence[int]
    source: Path
    left_out: str = ""
    """In words, how many training records cannot be used, and why; empty where all can."""


def load_data(encoder: Encoder, folder: Path, recipe: TrainingRecipe) -> HospitalData:
    """Encode the imported data by the model's chat template; held-out cut to the round's number.

    Examples that cannot be encoded, as when the prompt alone is too long, are left out, which
    ``left_out`` says. Raises DataError when nothing is left, with the last one's reason.
    """
    train, left_out = _encode(encoder, folder, "train", recipe.max_length, None)
    return HospitalData(
        train=[example for _, example in train],
        held_out=load_held_out(encoder, folder, recipe),
        lines=[line for line, _ in train],
        source=split_path(folder, "train"),
        left_out=left_out,
    )


def load_held_out(encoder: Encoder, folder: Path, recipe: TrainingRecipe) -> list[Example]:
    """The held-out examples of ``load_data`` alone. Raises DataError when there is none."""
    found, _ = _encode(encoder, folder, "held_out", recipe.max_length, recipe.eval_examples)
    return [example for _, example in found]


def _encode(
    encoder: Encoder, folder: Path, split: Split, max_length: int, limit: int | None
) -> tuple[list[tuple[int, Example]], str]:
    """The examples with their lines, and what is left out and why, in words."""
    examples: list[tuple[int, Example]] = []
    left_out: DataError | None = None
    n_left_out = 0
    for line, messages in enumerate(load_split(folder, split), 1):
        try:
            examples.append((line, encoder.encode(messages, max_length=max_length)))
        except DataError as error:
            left_out = error
            n_left_out += 1
        if len(examples) == limit:
            break
    if not examples:
        raise DataError(
            f"No {split} example in {folder} can be used" + (f": {left_out}" if left_out else "."),
            hint=(left_out.hint if left_out else "")
            or "Import more data; `appliance data stats` shows what is there.",
        ) from left_out
    if not left_out:
        return examples, ""
    of = len(examples) + n_left_out
    return examples, f"{n_left_out} of {of} {split} records are left out, the last one: {left_out}"


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

        if data.left_out:
            both(Note(data.left_out))
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
            forward=plan.forward,
            checkpoints=CheckpointPlan(plan.checkpoints, plan.base.sha256, plan.checkpoint_seconds),
        )
        with _named_examples(data, plan):
            result = model.train(job, both)
        sink(Phase("evaluating", "held-out examples after training"))
        after = mean_loss(model.losses(data.held_out, sink))
        log.held_out(result.steps, after)
    stored = _store(model, plan)
    metadata = _metadata(model, data, plan, result, (before, after), stored, started)
    write_atomically(plan.folder / METADATA, metadata.to_json())
    remove_checkpoints(plan.checkpoints)
    return stored, metadata


@contextmanager
def _named_examples(data: HospitalData, plan: TrainingPlan) -> Iterator[None]:
    """Say which lines of the data a loss that is not finite came from, and how to continue."""
    try:
        yield
    except LossNotFinite as error:
        lines = ", ".join(str(data.lines[index]) for index in error.examples)
        kept = " The last good checkpoint is kept." if plan.checkpoints.exists() else ""
        raise LossNotFinite(
            f"{error}{kept}",
            hint=f"They are lines {lines} of {data.source}. The same command goes on from the "
            "last checkpoint: enough where the hardware failed. If it fails there again, correct "
            "or remove those records, or lower the learning rate (--lr; in a round the "
            "coordinator's): such a change starts the training anew.",
            examples=error.examples,
        ) from error


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


def _last_variance(step_losses: Sequence[float]) -> float | None:
    last = step_losses[-VARIANCE_STEPS:]
    return statistics.variance(last) if len(last) > 1 else None


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
        loss_variance=_last_variance(result.step_losses),
        steps=result.steps,
        n_tokens=result.n_tokens,
        seconds=result.seconds,
        peak_memory_bytes=result.peak_memory_bytes,
        engine=model.engine,
        quantisation=model.quantisation,
        started_at=started,
        finished_at=time.time(),
    )
