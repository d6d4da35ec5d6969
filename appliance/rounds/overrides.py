"""What a hospital may do otherwise than a round's signed recipe says.

How the base is held and how batches are cut is its own business: the gradients stay the same. What
changes the result is the coordinator's, except for the fields that the descriptor lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from appliance.adapters import StoredAdapter
from appliance.config import first_problem
from appliance.engine import AS_CONFIGURED, MachineChoices
from appliance.events import Note, Sink
from federation.adapter import AdapterSchema
from federation.errors import InputError
from federation.files import storage_errors
from federation.low_rank import truncated
from federation.messages import RoundDescriptor
from federation.recipe import TrainingRecipe
from federation.tensors import read_header, read_tensors, write_tensors


@dataclass(frozen=True)
class Wishes:
    """What this hospital asks for; None leaves the round's value."""

    choices: MachineChoices = AS_CONFIGURED
    epochs: float | None = None
    learning_rate: float | None = None
    rank: int | None = None


NO_WISHES = Wishes()


def agreed_recipe(descriptor: RoundDescriptor, wishes: Wishes) -> TrainingRecipe:
    """The round's recipe with the wishes it allows. Raises InputError naming round and field."""
    recipe = descriptor.recipe.model_dump()
    for field in ("epochs", "learning_rate"):
        wanted = getattr(wishes, field)
        if wanted is None or wanted == recipe[field]:
            continue
        if field not in descriptor.overrides:
            raise InputError(
                f"Round {descriptor.round} does not let hospitals change {field}; it is "
                f"{recipe[field] if recipe[field] is not None else 'not set'} there.",
                hint=f"Leave that option out, or ask the coordinator for a round with {field} in "
                "its `overrides`.",
            )
        recipe |= {field: wanted} | ({"steps": None} if field == "epochs" else {})
    return _valid(descriptor, recipe)


def _valid(descriptor: RoundDescriptor, recipe: dict[str, Any]) -> TrainingRecipe:
    try:
        return TrainingRecipe(**recipe)
    except ValidationError as error:
        raise InputError(
            f"The recipe of round {descriptor.round} with these changes is not valid: "
            f"{first_problem(error)}."
        ) from error


def agreed_schema(descriptor: RoundDescriptor, wishes: Wishes) -> AdapterSchema:
    """The round's adapter at the wished rank. Raises InputError where the round forbids it."""
    schema = descriptor.adapter_schema
    if wishes.rank is None or wishes.rank == schema.rank:
        return schema
    if not descriptor.mixed_ranks:
        raise InputError(
            f"Round {descriptor.round} has rank {schema.rank} for all: its aggregator "
            f"{descriptor.aggregator!r} cannot combine adapters of different rank.",
            hint="Leave --lora-rank out, or ask for a round whose aggregator can (stacked).",
        )
    if wishes.rank > schema.rank:
        raise InputError(
            f"Rank {wishes.rank} is above the {schema.rank} of round {descriptor.round}.",
            hint=f"Choose --lora-rank up to {schema.rank}.",
        )
    return schema.model_copy(update={"rank": wishes.rank})


def at_rank(parent: StoredAdapter, schema: AdapterSchema, folder: Path, sink: Sink) -> Path:
    """The round's parent adapter at the rank of ``schema``: as it is, or its best approximation.

    What a lower rank loses of it is said to ``sink``.
    """
    before = parent.card.adapter_schema
    if schema == before:
        return parent.weights
    target = folder / "parent.safetensors"
    with (
        storage_errors(target),
        parent.weights.open("rb") as source,
        target.open("wb") as file,
    ):
        cut = truncated(read_tensors(source, read_header(source)), before, schema.rank)
        write_tensors(file, schema.shapes(), cut.tensors)
    lost = cut.discarded.values()
    sink(
        Note(
            f"Starting at rank {schema.rank} of the adapter's {before.rank}: of its squared norm "
            f"{sum(lost) / len(lost):.1%} is lost in the mean of {len(lost)} layers, "
            f"{max(lost):.1%} at most."
        )
    )
    return target
