"""What a hospital may do otherwise than a round says, and how a refusal names the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.cli.train import command
from appliance.context import Context
from appliance.rounds.overrides import (
    NO_WISHES,
    Wishes,
    agreed_recipe,
    agreed_schema,
)
from federation.errors import InputError
from federation.recipe import TrainingRecipe
from tests.unit.appliance.test_policy import DESCRIPTOR as BY_EPOCHS

DESCRIPTOR = BY_EPOCHS.model_copy(update={"recipe": TrainingRecipe()})


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


def test_a_batch_of_no_example_is_refused(tmp_path: Path) -> None:
    arguments = ["--round", "1", "--batch-size", "0"]
    done = CliRunner().invoke(command, arguments, obj=Context.open(tmp_path))
    assert isinstance(done.exception, InputError)
    assert "--batch-size 0" in str(done.exception)


def test_the_help_names_every_override() -> None:
    shown = CliRunner().invoke(command, ["--help"]).output
    for option in ("--use-8bit", "--use-4bit", "--batch-size", "--lora-rank", "--epochs", "--lr"):
        assert option in shown
