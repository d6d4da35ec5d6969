"""Training on this hospital's data alone, without a federation: the adapter called ``local``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance import models
from appliance.context import Context
from appliance.engine import AS_CONFIGURED, MachineChoices, load_engine, plan_training
from appliance.events import Note, Phase, Sink
from appliance.locks import exclusive
from appliance.training import TrainingMetadata, TrainingPlan, load_data, train
from backends.tokens import ChatTokenizer
from federation.adapter import initial_adapter
from federation.base_model import read_card
from federation.files import atomic_writer, storage_errors
from federation.messages import BaseReference
from federation.recipe import TrainingRecipe
from federation.tensors import write_tensors

_UNDER_WAY = ".local"


@dataclass(frozen=True)
class LocalSettings:
    """The adapter's shape and the recipe; target modules as ``BaseModelCard.adapter_schema``."""

    target_modules: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj")
    rank: int = 8
    alpha: float = 16.0
    recipe: TrainingRecipe = field(default_factory=TrainingRecipe)
    choices: MachineChoices = AS_CONFIGURED


def train_local(context: Context, settings: LocalSettings, sink: Sink) -> TrainingMetadata:
    """Train the local adapter anew; a former one is replaced when this one is whole.

    A training with the same settings that was stopped or killed is continued.
    """
    paths = context.paths
    waiting = Note("Another training runs on this appliance; waiting for it to end.")
    with exclusive(paths.home / "train.lock", lambda: sink(waiting)):
        sink(Phase("checking", "data and base model"))
        base = models.find(paths.models, name=context.config.model.name)
        card = read_card(base)
        schema = card.adapter_schema(
            settings.target_modules, rank=settings.rank, alpha=settings.alpha
        )
        # One folder for all attempts: after a crash the next goes on from its checkpoints.
        folder = paths.home / _UNDER_WAY
        parent = folder / "parent.safetensors"
        with atomic_writer(parent) as file:
            write_tensors(file, schema.shapes(), initial_adapter(schema, settings.recipe.seed))
        data = load_data(ChatTokenizer(base), paths.data, settings.recipe)
        machine = plan_training(
            base, schema, "AB", settings.recipe, data.train, context.config.engine, settings.choices
        )
        sink(Note(f"Plan: {machine.way}; {machine.needed} of {machine.free / 1e9:.1f} GB free."))
        model = load_engine(base, context.config.engine, sink, machine.quantisation)
        plan = TrainingPlan(
            base=BaseReference(name=card.name, sha256=card.sha256, n_bytes=card.n_bytes),
            schema=schema,
            recipe=settings.recipe,
            factors="AB",
            parent=parent,
            start_step=0,
            forward=machine.forward,
            checkpoint_seconds=context.config.engine.checkpoint_seconds,
            folder=folder,
            adapter_folder=paths.adapters / "local",
            origin="local data only",
        )
        _, metadata = train(model, data, plan, sink)
        _keep_records(folder, paths.home / "local")
        sink(Phase("done", "local adapter trained"))
        return metadata


def _keep_records(folder: Path, target: Path) -> None:
    (folder / "parent.safetensors").unlink()
    with storage_errors(target):
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
