"""The first way of training that fits into free memory, and what is said when none does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from backends.base import Example, ForwardPlan, Probe, Quantisation
from backends.estimate import ModelShape
from backends.planning import MachinePlan, Planner
from federation.errors import OutOfMemory
from federation.recipe import TrainingRecipe
from tests.unit.backends.test_estimate import ATTENTION, SHAPE, SMOLLM2

EXAMPLES = [Example(tuple(range(n)), n // 2) for n in (60, 100, 120, 128) * 8]
SCHEMA = SMOLLM2.adapter_schema(ATTENTION, rank=8, alpha=16.0)
RECIPE = TrainingRecipe(steps=4, batch_size=8)


def planner(
    free_gb: float,
    shape: ModelShape = SHAPE,
    device: str = "cpu",
    examples: Sequence[Example] = EXAMPLES,
) -> Planner:
    probe = Probe(
        "cuda",
        available=True,
        reason="Here.",
        device=device,
        free_bytes=int(free_gb * 1e9),
        forward_tokens=1024,
        quantisations=("none", "nf4", "int8"),
    )
    return Planner(shape, SCHEMA, "AB", RECIPE, examples, probe)


def chosen(free_gb: float, *quantisations: Quantisation, rows: int | None = None) -> MachinePlan:
    return planner(free_gb).choose(quantisations or ("none",), rows)


def test_with_room_the_widest_passes_are_taken() -> None:
    plan = chosen(16)
    assert (plan.quantisation, plan.forward) == ("none", ForwardPlan(1024))
    assert plan.needed.total < 3e9
    assert "at most 1024 tokens in a forward pass" in plan.way


def test_less_room_means_narrower_passes() -> None:
    plans = {free: chosen(free) for free in (16, 2.0, 1.3)}
    assert [plan.forward for plan in plans.values()] == [
        ForwardPlan(1024),
        ForwardPlan(512),
        ForwardPlan(256),
    ]
    assert all(plan.needed.total <= 0.9 * free * 1e9 for free, plan in plans.items())


def test_where_not_even_one_example_fits_activations_are_recomputed() -> None:
    examples = [Example(tuple(range(1000)), 500)] * 8
    assert planner(4, examples=examples).choose(["none"]).forward == ForwardPlan(1024)
    plan = planner(1.6, examples=examples).choose(["none"])
    assert plan.forward == ForwardPlan(1024, recompute=True)
    assert "activations recomputed" in plan.way


def test_quantisations_come_in_the_order_given() -> None:
    assert chosen(16, "none", "nf4").quantisation == "none"
    assert chosen(16, "nf4", "none").quantisation == "nf4"


def test_a_bound_on_examples_is_kept() -> None:
    plan = chosen(16, rows=2)
    assert plan.forward == ForwardPlan(1024, rows=2)
    assert plan.needed.total < chosen(16).needed.total
    assert "1024 tokens and 2 examples" in plan.way


def test_where_nothing_fits_the_error_says_what_is_missing() -> None:
    with pytest.raises(OutOfMemory, match=r"0\.5 GB of memory that are free") as caught:
        chosen(0.5)
    assert "GB more" in caught.value.hint


def test_where_another_way_to_hold_the_base_fits_it_is_named() -> None:
    """A base of 7 thousand million weights on a card with 8 GB: not in 16 bits, but in 4."""
    large = dataclasses.replace(SHAPE, linear_weights=7_000_000_000)
    card = planner(8, large, "cuda")
    with pytest.raises(OutOfMemory, match="14") as caught:
        card.choose(["none"])
    assert "Held as nf4 it would fit: --use-8bit or --use-4bit." in caught.value.hint
    assert card.choose(["none", "int8", "nf4"]).quantisation == "nf4"
