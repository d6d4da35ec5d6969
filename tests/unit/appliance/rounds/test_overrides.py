"""What a hospital may do otherwise than a round says, and how a refusal names the way out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from appliance.adapters import AdapterCard, StoredAdapter
from appliance.cli.train import command
from appliance.context import Context
from appliance.events import Event, Note
from appliance.rounds.overrides import (
    NO_WISHES,
    Wishes,
    agreed_recipe,
    agreed_schema,
    at_rank,
)
from backends.adapters import read_adapter, write_adapter
from federation.adapter import AdapterSchema, ModuleShape, tensor_name
from federation.canonical import file_sha256
from federation.errors import InputError
from federation.recipe import TrainingRecipe
from tests.unit.appliance.test_policy import DESCRIPTOR as BY_EPOCHS

DESCRIPTOR = BY_EPOCHS.model_copy(update={"recipe": TrainingRecipe()})
SCHEMA = AdapterSchema(
    modules=(ModuleShape(path="layers.0.q_proj", inputs=12, outputs=10),), rank=4, alpha=8.0
)


def test_without_wishes_all_is_the_rounds() -> None:
    assert agreed_recipe(DESCRIPTOR, NO_WISHES) == DESCRIPTOR.recipe
    assert agreed_schema(DESCRIPTOR, NO_WISHES) == DESCRIPTOR.adapter_schema


@pytest.mark.parametrize(
    ("field", "wishes"),
    [("epochs", Wishes(epochs=2.0)), ("learning_rate", Wishes(learning_rate=5e-4))],
)
def test_a_field_that_the_round_does_not_list_is_refused(field: str, wishes: Wishes) -> None:
    with pytest.raises(InputError, match=rf"Round {DESCRIPTOR.round} .* change {field}") as caught:
        agreed_recipe(DESCRIPTOR, wishes)
    assert "overrides" in caught.value.hint
    allowed = DESCRIPTOR.model_copy(update={"overrides": (field,)})
    recipe = agreed_recipe(allowed, wishes)
    assert getattr(recipe, field) == getattr(wishes, field)
    changed = {"steps", field} if field == "epochs" else {field}
    before, after = DESCRIPTOR.recipe.model_dump(), recipe.model_dump()
    assert {name for name in before if before[name] != after[name]} == changed


def test_asking_for_what_the_round_says_is_no_change() -> None:
    same = Wishes(learning_rate=DESCRIPTOR.recipe.learning_rate)
    assert agreed_recipe(DESCRIPTOR, same) == DESCRIPTOR.recipe


def test_a_value_that_no_recipe_may_have_is_refused() -> None:
    allowed = DESCRIPTOR.model_copy(update={"overrides": ("learning_rate",)})
    with pytest.raises(InputError, match="not valid: learning_rate"):
        agreed_recipe(allowed, Wishes(learning_rate=2.0))


def test_another_rank_only_where_ranks_may_differ() -> None:
    rank = DESCRIPTOR.adapter_schema.rank
    with pytest.raises(InputError, match=f"has rank {rank} for all") as caught:
        agreed_schema(DESCRIPTOR, Wishes(rank=rank - 1))
    assert "--lora-rank" in caught.value.hint
    mixed = DESCRIPTOR.model_copy(update={"mixed_ranks": True})
    assert agreed_schema(mixed, Wishes(rank=rank - 1)).rank == rank - 1
    with pytest.raises(InputError, match=f"above the {rank}"):
        agreed_schema(mixed, Wishes(rank=rank + 1))


def stored(folder: Path, b: np.ndarray, a: np.ndarray) -> StoredAdapter:
    path = SCHEMA.modules[0].path
    weights = folder / "adapter_model.safetensors"
    write_adapter(weights, {tensor_name(path, "A"): a, tensor_name(path, "B"): b})
    card = AdapterCard(
        base_name="x",
        base_sha256="0" * 64,
        adapter_schema=SCHEMA,
        sha256=file_sha256(weights),
        origin="test",
    )
    return StoredAdapter(folder, card)


def update(path: Path, schema: AdapterSchema) -> np.ndarray:
    """Delta W as the engines compute it."""
    tensors = read_adapter(path, schema)
    name = schema.modules[0].path
    product: np.ndarray = tensors[tensor_name(name, "B")] @ tensors[tensor_name(name, "A")]
    return product * schema.alpha / schema.rank


def test_the_parent_at_a_lower_rank_is_its_best_approximation(tmp_path: Path) -> None:
    stream = np.random.default_rng(0)
    b, a = stream.normal(size=(10, 4)), stream.normal(size=(4, 12))
    parent = stored(tmp_path, b.astype(np.float32), a.astype(np.float32))
    said: list[Event] = []
    assert at_rank(parent, SCHEMA, tmp_path, said.append) == parent.weights
    assert said == []
    whole = update(parent.weights, SCHEMA)
    lower = SCHEMA.model_copy(update={"rank": 2})
    cut = update(at_rank(parent, lower, tmp_path, said.append), lower)
    assert isinstance(said[0], Note)
    assert "at rank 2 of the adapter's 4" in said[0].text
    u, s, vt = np.linalg.svd(whole)
    assert np.allclose(cut, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-4)


def test_a_parent_that_is_zero_can_still_learn(tmp_path: Path) -> None:
    a = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    parent = stored(tmp_path, np.zeros((10, 4), np.float32), a)
    lower = SCHEMA.model_copy(update={"rank": 2})
    tensors = read_adapter(at_rank(parent, lower, tmp_path, [].append), lower)
    name = SCHEMA.modules[0].path
    assert not tensors[tensor_name(name, "B")].any()
    assert (np.linalg.norm(tensors[tensor_name(name, "A")], axis=1) > 0.1).all()


def test_wishes_differ_only_in_what_is_given() -> None:
    assert replace(NO_WISHES, rank=3).choices == NO_WISHES.choices


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", "1"], "--seed"),
        (["--alpha", "4"], "--alpha"),
        (["--steps", "9"], "--steps"),
    ],
)
def test_what_no_round_leaves_to_a_hospital_is_refused_at_once(
    tmp_path: Path, options: list[str], named: str
) -> None:
    done = CliRunner().invoke(command, ["--round", "1", *options], obj=Context.open(tmp_path))
    assert isinstance(done.exception, InputError)
    assert named in str(done.exception)
    assert "--batch-size" in done.exception.hint


def test_the_help_names_every_override() -> None:
    shown = CliRunner().invoke(command, ["--help"]).output
    for option in ("--use-8bit", "--use-4bit", "--batch-size", "--lora-rank", "--epochs", "--lr"):
        assert option in shown
